//! A history that no order explains, drawn for people: a line an operation.

use std::fmt;

use super::{At, History, THREADS, search::Stuck, spec::Page};

pub(super) fn draw(stuck: &Stuck, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Stuck { history, done, state } = stuck;
    let moments = Moments::of(history);
    writeln!(
        f,
        "no order of these operations explains their answers; at first: {}",
        Pages(&history.start)
    )?;
    let mut all: Vec<At> = history.all().collect();
    all.sort_by_key(|&at| (moments.called(at), at.thread, at.index));
    for at in all {
        let operation = history.get(at);
        let bar = moments.bar(at);
        let mark = if at.index < done[at.thread] { ' ' } else { '?' };
        let (call, answer) = (operation.call.to_string(), operation.answer);
        writeln!(f, "  thread {} {mark} {bar}  {call:<24} -> {answer}", at.thread)?;
    }
    write!(
        f,
        "The longest way to explain them leaves out those with a question mark, and comes to: "
    )?;
    write!(f, "{}", Pages(&state.pages))
}

struct Pages<'p>(&'p [Page]);

impl fmt::Display for Pages<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, page) in self.0.iter().enumerate() {
            match page {
                Page::Unpopulated => write!(f, "[{number}: no memory]")?,
                Page::Empty => write!(f, "[{number}: empty]")?,
                Page::Leaf(leaf) => write!(f, "[{number}: {leaf}]")?,
            }
        }
        Ok(())
    }
}

/// The fewest moments that show which operation was over when another was called: at each of them some
/// are called that saw the same ones over.
struct Moments {
    /// What was over, at each moment.
    seen: Vec<[usize; THREADS]>,
    of: Vec<Vec<usize>>,
}

impl Moments {
    fn of(history: &History) -> Self {
        let mut seen: Vec<_> = history.all().map(|at| Self::before(history, at)).collect();
        seen.sort_by_key(|seen| (seen.iter().sum::<usize>(), *seen));
        seen.dedup();
        let moment = |at| seen.iter().position(|seen| *seen == Self::before(history, at));
        let mut of: Vec<Vec<usize>> = history.threads.iter().map(|_| Vec::new()).collect();
        for at in history.all() {
            of[at.thread].push(moment(at).expect("it is on the list"));
        }
        Self { seen, of }
    }

    /// Returns what was over when the operation was called, with those of its own thread.
    fn before(history: &History, at: At) -> [usize; THREADS] {
        let mut seen = history.get(at).seen;
        seen[at.thread] = at.index;
        seen
    }

    fn called(&self, at: At) -> usize {
        self.of[at.thread][at.index]
    }

    /// Draws when the operation was under way.
    fn bar(&self, at: At) -> String {
        let over = |moment: usize| self.seen[moment][at.thread] > at.index;
        let first = self.called(at);
        let last = (first..self.seen.len()).take_while(|&moment| !over(moment)).last();
        let last = last.unwrap_or(first);
        let mark = |moment: usize| match moment {
            _ if moment < first || moment > last => '.',
            _ if first == last => '#',
            _ if moment == first => '[',
            _ if moment == last => ']',
            _ => '=',
        };
        (0..self.seen.len()).map(mark).collect()
    }
}
