//! The output of a command, cached for a time.
//!
//! A command has one run at a time. A run continues if the request that started it is cancelled. A request waits at
//! most [`TIMEOUT`] for a run. A request whose run failed does not wait for the next run.

use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use secrecy::SecretString;
use secrecy::zeroize::Zeroizing;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use super::{MAX_VALUE, accept};
use crate::format::Format;

/// The time limit of a run: less than Envoy's timeout for the gateway (5 s), so that the gateway responds.
const TIMEOUT: Duration = Duration::from_secs(4);

/// The pause after a failure before the next run.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The longest output, in bytes: a value and white space around it.
const MAX_OUTPUT: u64 = MAX_VALUE as u64 + 1024;

/// A command and its cached value.
#[derive(Debug)]
pub struct Command {
    program: String,
    arguments: Vec<String>,
    ttl: Duration,
    /// Held during a run.
    run: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    value: Option<(Arc<SecretString>, Instant)>,
    failure: Option<(String, Instant)>,
}

/// A value, which may be older than its TTL, and the problem with the last run.
type Told = (Option<Arc<SecretString>>, Option<String>);

impl Command {
    /// The command `program` with `arguments`. Its output is cached for `ttl`.
    pub fn new(program: String, arguments: Vec<String>, ttl: Duration) -> Self {
        Self { program, arguments, ttl, run: tokio::sync::Mutex::default(), known: Mutex::default() }
    }

    /// The value. If a run fails, the last value stays in use: it may still be valid, and otherwise the provider
    /// rejects it.
    pub async fn value(self: &Arc<Self>, format: &Format) -> Told {
        if let Some(told) = self.settled() {
            return told;
        }
        let (command, format) = (Arc::clone(self), format.clone());
        let renewed = tokio::spawn(async move {
            let _only = command.run.lock().await;
            if let Some(told) = command.settled() {
                return told;
            }
            let outcome = command.output().await.and_then(|bytes| command.taken(bytes, &format));
            command.keep(outcome)
        });
        renewed
            .await
            .unwrap_or_else(|_| (None, Some(format!("BUG: the task of the command {} has ended early", self.program))))
    }

    /// The cached result: a value within its TTL, or a recent failure. `None` if a run is due.
    fn settled(&self) -> Option<Told> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let value = known.value.as_ref().map(|(value, _)| Arc::clone(value));
        match (&known.value, &known.failure) {
            (_, Some((problem, at))) if at.elapsed() < RETRY_AFTER => Some((value, Some(problem.clone()))),
            (Some((_, at)), None) if at.elapsed() < self.ttl => Some((value, None)),
            _ => None,
        }
    }

    fn keep(&self, outcome: Result<Arc<SecretString>, String>) -> Told {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match outcome {
            Ok(value) => *known = Known { value: Some((value, now)), failure: None },
            Err(what) => known.failure = Some((format!("the command {} {what}", self.program), now)),
        }
        let problem = known.failure.as_ref().map(|(problem, _)| problem.clone());
        (known.value.as_ref().map(|(value, _)| Arc::clone(value)), problem)
    }

    fn taken(&self, bytes: Vec<u8>, format: &Format) -> Result<Arc<SecretString>, String> {
        match accept(bytes, format) {
            Ok(Some(value)) => Ok(value),
            Ok(None) => Err("prints nothing".into()),
            Err(problem) => Err(format!("prints a text that {problem}")),
        }
    }

    /// Runs the command. Its stderr is discarded, because it may contain the secret.
    async fn output(&self) -> Result<Vec<u8>, String> {
        let mut child = tokio::process::Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A process group of its own, so that the command's children can be killed with it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot be started: {error}"))?;
        let stdout = child.stdout.take();
        let work = async {
            let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_VALUE));
            if let Some(stdout) = stdout {
                let read = stdout.take(MAX_OUTPUT).read_to_end(&mut bytes).await;
                if read.map_err(|error| format!("cannot be read: {error}"))? as u64 == MAX_OUTPUT {
                    return Err(format!("prints a text that is longer than {MAX_VALUE} bytes"));
                }
            }
            let status = child.wait().await.map_err(|error| format!("cannot be waited for: {error}"))?;
            if status.success() {
                Ok(std::mem::take(&mut *bytes))
            } else {
                Err(format!("fails ({status}); run the command by hand to see why"))
            }
        };
        let late = || Err(format!("takes longer than {} s", TIMEOUT.as_secs()));
        let done = tokio::time::timeout(TIMEOUT, work).await.unwrap_or_else(|_| late());
        // `id` returns `None` once the child has been waited for, so this is never another process's group.
        if let Some(group) = child.id().and_then(|id| Pid::from_raw(id.cast_signed()))
            && let Err(error) = kill_process_group(group, Signal::KILL)
        {
            tracing::debug!(%error, "the process group of a command could not be killed");
        }
        done
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;
    use std::path::Path;

    fn shell(script: &str, ttl: Duration) -> Arc<Command> {
        Arc::new(Command::new("sh".into(), vec!["-c".into(), script.into()], ttl))
    }

    async fn told(command: &Arc<Command>) -> (Option<String>, Option<String>) {
        let (value, problem) = command.value(&Format::parse("Bearer {}").unwrap()).await;
        (value.map(|value| value.expose_secret().to_owned()), problem)
    }

    fn runs(log: &Path) -> usize {
        std::fs::read_to_string(log).map_or(0, |text| text.lines().count())
    }

    #[tokio::test]
    async fn many_requests_are_one_run_and_its_output_counts_for_its_time() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let command = shell(&format!("echo run >>{}; sleep 0.2; echo K", log.display()), Duration::from_secs(600));
        let all = futures::future::join_all((0..50).map(|_| told(&command))).await;
        assert!(all.iter().all(|(value, problem)| value.as_deref() == Some("K") && problem.is_none()), "{all:?}");
        assert_eq!(runs(&log), 1);
        let short = shell(&format!("echo run >>{}; echo K", log.display()), Duration::ZERO);
        told(&short).await;
        told(&short).await;
        assert_eq!(runs(&log), 3);
    }

    #[tokio::test]
    async fn a_run_goes_on_without_the_request_that_began_it() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let command = shell(&format!("echo run >>{}; sleep 0.3; echo K", log.display()), Duration::from_secs(600));
        let left = tokio::time::timeout(Duration::from_millis(100), told(&command)).await;
        assert!(left.is_err());
        assert_eq!(told(&command).await.0.unwrap(), "K");
        assert_eq!(runs(&log), 1);
    }

    #[tokio::test]
    async fn a_failure_says_what_and_not_what_was_printed_and_the_last_value_goes_on_to_count() {
        let directory = tempfile::tempdir().unwrap();
        let good = directory.path().join("good");
        for (script, what) in [
            ("echo secret; echo secret >&2; exit 3", "exit status: 3"),
            ("true", "prints nothing"),
            ("printf 'sec\\nret'", "no header can carry"),
            ("head -c 100000 /dev/zero | tr '\\0' x", "longer than"),
        ] {
            let (value, problem) = told(&shell(script, Duration::ZERO)).await;
            let problem = problem.unwrap();
            assert!(value.is_none() && problem.contains(what) && !problem.contains("ret"), "{problem}");
        }
        let missing = Arc::new(Command::new("/nonexistent/program".into(), vec![], Duration::ZERO));
        assert!(told(&missing).await.1.unwrap().contains("/nonexistent/program cannot be started"));

        let command = shell(&format!("test -e {} && echo K", good.display()), Duration::ZERO);
        std::fs::write(&good, "").unwrap();
        assert_eq!(told(&command).await, (Some("K".into()), None));
        std::fs::remove_file(&good).unwrap();
        let (value, problem) = told(&command).await;
        assert_eq!(value.as_deref(), Some("K"));
        assert!(problem.unwrap().contains("fails"));
    }

    #[tokio::test]
    async fn nobody_waits_longer_than_the_timeout_and_nothing_is_left_running() {
        let directory = tempfile::tempdir().unwrap();
        let pids = directory.path().join("pids");
        let command = shell(&format!("sleep 60 & echo $! >{}; wait", pids.display()), Duration::from_secs(60));
        let began = Instant::now();
        let all = futures::future::join_all((0..3).map(|_| told(&command))).await;
        assert!(began.elapsed() < TIMEOUT + Duration::from_secs(4), "{:?}", began.elapsed());
        assert!(all.iter().all(|(value, problem)| value.is_none() && problem.is_some()), "{all:?}");
        let sleeper = std::fs::read_to_string(&pids).unwrap();
        let ended = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", sleeper.trim())).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        };
        while !ended() {
            assert!(began.elapsed() < TIMEOUT * 3, "the command's own child goes on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
