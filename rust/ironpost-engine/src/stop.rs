//! Telling threads to stop: a flag for those who work, a closed pipe for those who wait.

use crate::source::lock;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One signal to stop, seen by every thread that holds it.
#[derive(Debug)]
pub(crate) struct Stop {
    flag: AtomicBool,
    reader: PipeReader,
    writer: Mutex<Option<PipeWriter>>,
}

impl Stop {
    /// A signal not given yet.
    ///
    /// # Errors
    /// When the process may open no more files.
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        let (reader, writer) = io::pipe()?;
        Ok(Arc::new(Self { flag: AtomicBool::new(false), reader, writer: Mutex::new(Some(writer)) }))
    }

    /// Gives the signal. All waiting threads wake.
    pub(crate) fn give(&self) {
        self.flag.store(true, Ordering::SeqCst);
        lock(&self.writer).take();
    }

    /// True once given.
    pub(crate) fn given(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// Readable (hung up) once given.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }

    /// Waits until one of `ready` is readable, the signal is given, or the time is over; says which are readable.
    pub(crate) fn wait(&self, ready: &[BorrowedFd<'_>], timeout: Duration, readable: &mut Vec<bool>) {
        let mut set: Vec<PollFd<'_>> =
            ready.iter().map(|descriptor| PollFd::new(*descriptor, PollFlags::POLLIN)).collect();
        set.push(PollFd::new(self.as_fd(), PollFlags::POLLIN));
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        // An interrupted wait is an early one.
        let _ = poll(&mut set, timeout);
        readable.clear();
        readable.extend(
            set[..ready.len()].iter().map(|entry| entry.revents().is_some_and(|events| !events.is_empty())),
        );
    }

    /// Sleeps, but not longer than until the signal.
    pub(crate) fn sleep(&self, time: Duration) {
        self.wait(&[], time, &mut Vec::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_sleeping_thread_wakes_when_the_signal_is_given() {
        let stop = Stop::new().unwrap();
        let sleeper = {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let begin = Instant::now();
                stop.sleep(Duration::from_secs(60));
                begin.elapsed()
            })
        };
        stop.give();
        assert!(sleeper.join().unwrap() < Duration::from_secs(30));
        assert!(stop.given());
    }
}
