//! The ends of a gateway's logs, printed when a test fails.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once};
use std::thread::{self, ThreadId};

/// The number of lines of each log that are printed.
const LOG_TAIL: usize = 40;

/// Registers the gateway of `directory` for the thread of the test that starts it.
pub(super) fn print_when_a_test_fails(directory: &Path) {
    static HOOK: Once = Once::new();
    static STARTED: Mutex<Vec<(ThreadId, PathBuf)>> = Mutex::new(Vec::new());
    STARTED.lock().unwrap().push((thread::current().id(), directory.to_owned()));
    HOOK.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            default(info);
            let mut started = STARTED.lock().map(|list| list.clone()).unwrap_or_default();
            let own = thread::current().id();
            if started.iter().any(|(thread, _)| *thread == own) {
                started.retain(|(thread, _)| *thread == own);
            }
            // A test that started no gateway shares one. Its directory is unknown here, so all are printed.
            for log in started.iter().flat_map(|(_, d)| [d.join("stdout.log"), d.join("stderr.log")]) {
                let text = std::fs::read(&log).unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                let lines: Vec<&str> = text.lines().collect();
                let tail = &lines[lines.len().saturating_sub(LOG_TAIL)..];
                eprintln!("--- the end of {}\n{}", log.display(), tail.join("\n"));
            }
        }));
    });
}
