//! Envoy's callbacks. The root context holds the rules from the filter's configuration. The HTTP contexts pass each
//! event to their [`Flow`] and carry out the steps that it returns. No decision is made here.

use envoy_host::{self as host, Action, Level, Method, RootCallbacks, StreamCallbacks};
use policy::flow::github::{Confirm, Confirmed, Flow};
use policy::flow::{Broken, Step};
use policy::github::{About, Judge, Purpose, Question};
use policy::{Denial, InForce, RulesInForce, Stage};
use prost::Message;
use registry_proto::github::{self as message, ConfirmRequest, ConfirmResponse, question};
use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::Duration;

const CONFIRM: Method<'_> = Method { cluster: "control-plane", service: "sallyport.github.v1.GitHub", name: "Confirm" };
/// How long a request waits for GitHub's answers to its questions.
const PATIENCE: Duration = Duration::from_secs(15);

thread_local! {
    /// The rules that the root contexts of this worker share.
    static IN_FORCE: RefCell<Weak<RefCell<InForce<Judge>>>> = const { RefCell::new(Weak::new()) };
}

/// The root context.
pub struct Root {
    in_force: Rc<RefCell<InForce<Judge>>>,
}

impl Default for Root {
    fn default() -> Self {
        Self { in_force: host::shared_by_roots(&IN_FORCE) }
    }
}

impl RootCallbacks for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        let configured = host::configuration(size)
            .map_err(|error| error.to_string())
            .and_then(|json| serde_json::from_slice::<RulesInForce>(&json).map_err(|error| error.to_string()))
            .and_then(|RulesInForce { revision, rules }| {
                Judge::new(&rules).map(|judge| (revision, judge)).map_err(|error| error.to_string())
            });
        match configured {
            Ok((revision, judge)) => {
                self.in_force.borrow_mut().set(revision, Rc::new(judge));
            }
            Err(error) => {
                host::log(Level::Error, &format!("github: the rules can't be parsed: {error}"));
                self.in_force.borrow_mut().unset();
            }
        }
        true
    }

    fn create_stream(&self, _id: u32) -> Box<dyn StreamCallbacks> {
        Box::new(Stream(Flow::new(Rc::clone(&self.in_force))))
    }
}

/// The context of one request.
struct Stream(Flow);

impl StreamCallbacks for Stream {
    fn on_request_headers(&mut self, end: bool) -> Action {
        let step = self.0.request_headers(host::request_head().map_err(Broken::new), end);
        self.carry_out(step)
    }

    fn on_request_body(&mut self, size: usize, end: bool) -> Action {
        let unread = self.0.unread(size, end);
        let unread = host::request_body_part(unread.start, unread.len()).map_err(Broken::new);
        let step = self.0.request_body(size, unread, end);
        self.carry_out(step)
    }

    fn on_request_trailers(&mut self) -> Action {
        let step = self.0.request_trailers();
        self.carry_out(step)
    }

    fn on_grpc_call_response(&mut self, _token: u32, status: u32, size: usize) {
        let message = (status == 0).then(|| host::grpc_message(size).ok()).flatten();
        let response = message.and_then(|bytes| ConfirmResponse::decode(bytes.as_slice()).ok());
        let step = match response {
            Some(ConfirmResponse { limited: Some(message::Limited { reason, retry_after }), .. }) => {
                self.0.question_refused(Denial::limited(Stage::Github, reason, retry_after))
            }
            response => self
                .0
                .confirmed(response.map(|ConfirmResponse { confirmed, reason, .. }| Confirmed { confirmed, reason })),
        };
        let _no_bytes_are_at_hand = self.carry_out(step);
    }
}

impl Stream {
    fn carry_out(&mut self, mut step: Step<Confirm>) -> Action {
        loop {
            match host::carry_out(step, ask) {
                Ok(action) => return action,
                Err(error) => step = self.0.failed(Broken::new(error)),
            }
        }
    }
}

fn ask(confirm: Confirm) -> Result<(), host::Error> {
    let Confirm { container, questions } = confirm;
    let questions = questions.into_iter().map(encoded).collect();
    let request = ConfirmRequest { address: registry_proto::address_bytes(container), questions };
    host::call(CONFIRM, &request.encode_to_vec(), PATIENCE).map(|_token| ())
}

fn encoded(Question { about, purpose }: Question) -> message::Question {
    let about = match about {
        About::Node(id) => question::About::NodeId(id),
        About::Issue { repo, number } => question::About::Issue(message::Issue { repo, number }),
    };
    let purpose = match purpose {
        Purpose::Read => message::Purpose::Read,
        Purpose::Write => message::Purpose::Write,
        Purpose::Force => message::Purpose::Force,
        Purpose::SetLabel => message::Purpose::SetLabel,
        Purpose::DropLabel => message::Purpose::DropLabel,
        Purpose::Person => message::Purpose::Person,
        Purpose::Rewrite => message::Purpose::Rewrite,
    };
    message::Question { about: Some(about), purpose: purpose.into() }
}
