//! Replacement of the filters' module while a gateway runs.

use std::fs;
use std::path::{Path, PathBuf};

/// The name of the module.
const MODULE: &str = "sallyport.wasm";

/// A directory with a copy of the filters, for `SALLYPORT_FILTERS`.
#[derive(Debug)]
pub struct Filters {
    directory: PathBuf,
    code: Vec<u8>,
}

impl Filters {
    /// A copy in `directory`.
    pub fn copied(directory: PathBuf) -> Self {
        let built = std::env::var_os("SALLYPORT_FILTERS").expect("SALLYPORT_FILTERS is set by run-e2e.sh");
        let code = fs::read(Path::new(&built).join(MODULE)).expect("the filters are built");
        fs::write(directory.join(MODULE), &code).expect("the module is written");
        Self { directory, code }
    }

    /// The directory.
    pub fn directory(&self) -> &str {
        self.directory.to_str().expect("a path in UTF-8")
    }

    /// Puts another build in place by a rename, as `mv` does. The build differs by a custom section (WebAssembly core
    /// specification, section 5.5.3), which changes the module and not its behaviour.
    pub fn exchange(&self, number: u8) {
        let content = [&[4][..], b"test", &[number]].concat();
        let length = u8::try_from(content.len()).expect("a short section");
        let new = self.directory.join("new");
        fs::write(&new, [&self.code[..], &[0, length], &content].concat()).expect("the module is written");
        fs::rename(&new, self.directory.join(MODULE)).expect("the module is replaced");
    }
}
