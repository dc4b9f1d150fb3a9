//! The meaning of a body's members by their place: [`crate::scan`] reports each name and value, this file says which of
//! them the guard refuses. In a member that is the agent's own data ([`What::Data`]) no name has a meaning.

use crate::guard::{Guard, unreadable};
use crate::words::{self, What};
use policy::{Denial, glob};

/// The most bytes of a name that are kept. Every name and every type in [`words`] is shorter.
const MAX_KEY: usize = 40;

/// The address below which Gemini's stored files have their URLs.
const GEMINI_FILES: &[u8] = b"https://generativelanguage.googleapis.com/";

/// A short text: a name, or a value of `type`. A longer text is empty, and equals no word.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    bytes: [u8; MAX_KEY],
    size: usize,
}

impl Key {
    const NONE: Self = Self { bytes: [0; MAX_KEY], size: 0 };

    fn new(text: &[u8], whole: bool) -> Self {
        let mut key = Self::NONE;
        if let (true, Some(place)) = (whole, key.bytes.get_mut(..text.len())) {
            place.copy_from_slice(text);
            key.size = text.len();
        }
        key
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.size).unwrap_or_default()
    }

    fn is(&self, word: &str) -> bool {
        words::is(self.bytes(), word)
    }
}

/// A value, as far as it counts.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// `null` or `false`: the same as no member.
    Absent,
    /// `true` or a number.
    Scalar,
    /// A text: its beginning, and whether that is all of it. A text that [`Meaning::reads`] did not ask for is not kept.
    Text(&'a [u8], bool),
    /// The beginning of an object.
    Object,
    /// The beginning of an array.
    Array,
}

/// The row of a member: its word, and what it does.
type Member = Option<(&'static str, What)>;

/// A member with stored state, which the object's `type` may still excuse.
type Pending = (&'static str, &'static [&'static str], &'static [&'static str]);

#[derive(Debug)]
enum Frame {
    /// An array, with the name and the meaning of its member for each item.
    Array {
        under: Key,
        member: Member,
    },
    Object(Box<Object>),
}

#[derive(Debug)]
struct Object {
    /// The member in which it lies, arrays left out.
    under: Key,
    /// The member whose value comes next.
    next: (Key, Member),
    /// It stands for a tool.
    tool: bool,
    /// It is an item of `input`.
    item: bool,
    types: u32,
    /// The value of `type`, if it is a text.
    kind: Option<Key>,
    has_name: bool,
    has_role: bool,
    has_id: bool,
    /// It has a member that no tool of Gemini has.
    odd: bool,
    pending: Option<Pending>,
}

/// The place in a body.
#[derive(Debug)]
pub struct Meaning {
    guard: Guard,
    frames: Vec<Frame>,
    /// The depth inside a member that is the agent's data.
    data: usize,
}

impl Meaning {
    /// Before the first byte of a body.
    pub fn new(guard: Guard) -> Self {
        Self { guard, frames: Vec::new(), data: 0 }
    }

    /// Whether names count here.
    pub fn in_data(&self) -> bool {
        self.data > 0
    }

    /// Whether the text that begins here counts.
    pub fn reads(&self) -> bool {
        if self.in_data() {
            return false;
        }
        let (name, member) = self.place();
        !matches!(member, None | Some((_, What::Data))) || name.is("type")
    }

    /// The name and the meaning of the next value.
    fn place(&self) -> (Key, Member) {
        match self.frames.last() {
            Some(Frame::Array { under, member }) => (*under, *member),
            Some(Frame::Object(object)) => object.next,
            None => (Key::NONE, None),
        }
    }

    /// The name of a member, of which `text` is the beginning and, if `whole`, all.
    pub fn name(&mut self, text: &[u8], whole: bool) {
        let Some(Frame::Object(object)) = self.frames.last_mut() else { return };
        let member = if whole { words::what(object.under.bytes(), text) } else { None };
        object.next = (Key::new(text, whole), member);
        if object.tool {
            let gemini = || words::GEMINI_TOOLS.iter().any(|word| words::is(text, word));
            object.odd |= !(whole && (words::is(text, "type") || gemini()));
        }
    }

    /// A value, or the beginning of one.
    ///
    /// # Errors
    /// If the guard refuses the value at this place.
    pub fn value(&mut self, value: Value<'_>) -> Result<(), Denial> {
        let container = matches!(value, Value::Object | Value::Array);
        if self.in_data() {
            self.data += usize::from(container);
            return Ok(());
        }
        if self.frames.is_empty() && !matches!(value, Value::Object) {
            return Err(unreadable("the body is no JSON object"));
        }
        let (under, member) = self.place();
        let item = matches!(self.frames.last(), Some(Frame::Array { under, .. }) if under.is("input"));
        if let Some(Frame::Object(object)) = self.frames.last_mut() {
            object.note(&under, &value, &self.guard)?;
        }
        let list = matches!(value, Value::Array);
        let mut tool = false;
        match (member, value) {
            (Some((_, What::Data)), _) => {
                self.data = usize::from(container);
                return Ok(());
            }
            (None, _) | (_, Value::Absent) => {}
            (Some((name, What::Url)), Value::Text(text, whole)) => {
                if name == "file_uri" && text.starts_with(GEMINI_FILES) {
                    self.stored(name, &["files"])?;
                } else {
                    self.guard.url(name, text, whole)?;
                }
            }
            (Some((name, What::UrlOrData)), Value::Text(text, whole)) => {
                // Base64 has no colon (RFC 4648 section 4), and every URL has one in its beginning.
                if text.contains(&b':') {
                    self.guard.url(name, text, whole)?;
                }
            }
            (Some((_, What::Url | What::UrlOrData)), _) => {}
            (Some((_, What::Remote)), Value::Array) => {}
            (Some((name, What::Remote)), _) => {
                if !self.guard.remote() {
                    let problem = format!("the member {name:?} lets the provider call what the agent chooses");
                    return Err(self.guard.remote_denial(&problem));
                }
            }
            (Some((_, What::Stored { .. })), Value::Text(b"", _) | Value::Object | Value::Array) => {}
            (Some((name, What::Stored { also, but })), _) => self.stored_unless(name, also, but)?,
            (Some((_, What::Tool)), Value::Object) => tool = true,
            (Some((name, What::Tool)), Value::Text(text, whole)) => {
                // A grammar of a custom tool is a `definition`, too.
                if name == "tools" {
                    judge_tool(&self.guard, text, whole)?;
                }
            }
            (Some((_, What::Tool)), _) => {}
            (Some((_, What::Model)), Value::Text(text, whole)) => self.model(text, whole)?,
            (Some((_, What::Model)), _) => {}
        }
        if list {
            self.frames.push(Frame::Array { under, member });
        } else if container {
            self.frames.push(Frame::Object(Box::new(Object::new(under, tool, item))));
        }
        Ok(())
    }

    /// The end of the innermost object or array.
    ///
    /// # Errors
    /// If the guard refuses the object as a whole.
    pub fn end(&mut self) -> Result<(), Denial> {
        if self.in_data() {
            self.data -= 1;
            return Ok(());
        }
        let Some(Frame::Object(object)) = self.frames.pop() else { return Ok(()) };
        if let Some((name, also, but)) = object.pending
            && !object.kind.is_some_and(|kind| but.contains(&String::from_utf8_lossy(kind.bytes()).as_ref()))
        {
            return self.stored(name, also);
        }
        // The type of an item reference may be left out.
        if object.item && object.has_id && object.kind.is_none() && !object.has_role {
            return self.stored("item_reference", &["responses"]);
        }
        if object.tool && object.odd && object.kind.is_none() && !object.has_name && !self.guard.remote() {
            return Err(self.guard.remote_denial("a tool has a member that is not on the list of tools"));
        }
        Ok(())
    }

    fn stored(&self, name: &str, also: &[&str]) -> Result<(), Denial> {
        if self.guard.stored(also) { Ok(()) } else { Err(self.guard.stored_denial(name, also)) }
    }

    fn stored_unless(
        &mut self,
        name: &'static str,
        also: &'static [&'static str],
        but: &'static [&'static str],
    ) -> Result<(), Denial> {
        if self.guard.stored(also) {
            return Ok(());
        }
        match self.frames.last_mut() {
            Some(Frame::Object(object)) if !but.is_empty() && object.pending.is_none_or(|(have, ..)| have == name) => {
                object.pending = Some((name, also, but));
                Ok(())
            }
            _ => self.stored(name, also),
        }
    }

    fn model(&self, text: &[u8], whole: bool) -> Result<(), Denial> {
        if text.starts_with(words::PRESET) {
            self.stored("preset", &[])?;
        }
        let visits = words::MODELS.iter().any(|model| glob::covers(model.as_bytes(), &text.to_ascii_lowercase()));
        if (visits || !whole) && !self.guard.remote() {
            return Err(self.guard.remote_denial("the model visits URLs by itself"));
        }
        Ok(())
    }
}

impl Object {
    fn new(under: Key, tool: bool, item: bool) -> Self {
        Self {
            under,
            next: (Key::NONE, None),
            tool,
            item,
            types: 0,
            kind: None,
            has_name: false,
            has_role: false,
            has_id: false,
            odd: false,
            pending: None,
        }
    }

    /// Notes the value of the member `name`, where the member says what the object is.
    fn note(&mut self, name: &Key, value: &Value<'_>, guard: &Guard) -> Result<(), Denial> {
        let there = !matches!(value, Value::Absent);
        self.has_name |= there && name.is("name");
        self.has_role |= there && name.is("role");
        self.has_id |= there && name.is("id");
        if !name.is("type") {
            return Ok(());
        }
        self.types += 1;
        if self.types > 1 {
            return Err(unreadable("the member \"type\" stands twice in one object"));
        }
        match value {
            Value::Text(text, whole) => {
                self.kind = Some(Key::new(text, *whole));
                let stored = words::TYPES.iter().find(|(kind, _)| words::is(text, kind));
                if let Some((kind, also)) = stored
                    && !guard.stored(also)
                {
                    return Err(guard.stored_denial(kind, also));
                }
                if self.tool { judge_tool(guard, text, *whole) } else { Ok(()) }
            }
            Value::Absent => Ok(()),
            _ if self.tool => judge_tool(guard, b"", false),
            _ => Ok(()),
        }
    }
}

/// Judges the type of a tool.
fn judge_tool(guard: &Guard, kind: &[u8], whole: bool) -> Result<(), Denial> {
    let known = whole && words::TOOLS.iter().any(|tool| glob::covers(tool.as_bytes(), kind));
    if known || guard.remote() {
        return Ok(());
    }
    let shown: String = String::from_utf8_lossy(kind).chars().take(MAX_KEY).collect();
    Err(guard.remote_denial(&format!("a tool of the type {shown:?} may let the provider call what the agent chooses")))
}
