//! Starts the tasks that find things out, so many at once.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::book::Question;
use super::files::{Found, Seen};
use super::{News, Teller, Topic, dns, files};

/// Questions at once.
const QUESTIONS_MAX: usize = 32;
/// Looks at files at once.
const LOOKS_MAX: usize = 8;
/// How long is relied on what /etc/resolv.conf and /etc/hosts said.
const SYSTEM_AGE_MAX: Duration = Duration::from_secs(5);

/// Starts the tasks that find things out.
pub struct Asker {
    system: Option<(Instant, Arc<dns::System>)>,
    questions: Arc<Semaphore>,
    looks: Arc<Semaphore>,
}

impl Default for Asker {
    fn default() -> Self {
        let permits = |count| Arc::new(Semaphore::new(count));
        Self { system: None, questions: permits(QUESTIONS_MAX), looks: permits(LOOKS_MAX) }
    }
}

impl std::fmt::Debug for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asker").finish_non_exhaustive()
    }
}

impl Asker {
    /// Puts a question.
    pub fn ask(&mut self, question: Question, teller: Teller, now: Instant) {
        let fresh = |(read, _): &&(Instant, Arc<dns::System>)| now.saturating_duration_since(*read) < SYSTEM_AGE_MAX;
        let system = match self.system.as_ref().filter(fresh) {
            Some((_, system)) => system.clone(),
            None => self.system.insert((now, Arc::new(dns::System::read()))).1.clone(),
        };
        let permits = self.questions.clone();
        tokio::spawn(async move {
            let _permit = permits.acquire().await;
            let reply = system.ask(&question).await;
            // The supervisor may have ended meanwhile.
            let _ = teller.send(News(Topic::Answer(question, reply))).await;
        });
    }

    /// Looks at a file, on a thread of its own: a file system may let it wait.
    pub fn look(&self, path: PathBuf, seen: Seen, teller: Teller) {
        let permits = self.looks.clone();
        tokio::spawn(async move {
            let _permit = permits.acquire().await;
            let place = path.clone();
            let looked = tokio::task::spawn_blocking(move || files::look(&place, seen)).await;
            let (seen, found) = looked.unwrap_or_else(|error| (seen, Found::Failed(error.to_string())));
            let _ = teller.send(News(Topic::Look(path, seen, found))).await;
        });
    }
}
