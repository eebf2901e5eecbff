//! The windows of one group.

use super::Window;
use crate::judge::Judge;
use serde::{Deserialize, Serialize};

/// The windows of a group: the one of the newest events, and one for events that came too late for it. So neither a time
/// far ahead nor a clock that steps back blinds the group.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) current: Window,
    pub(crate) behind: Option<Box<Window>>,
    /// A snapshot of it was taken: when it goes, that has to be told.
    #[serde(skip)]
    pub(crate) stored: bool,
}

/// Which of a group's windows takes an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Current,
    Behind,
    /// Too old for both.
    Nowhere,
}

impl Group {
    pub(crate) fn place(&self, time: i64, judge: &Judge) -> Place {
        let reaches = |window: &Window| time >= window.newest.saturating_sub(judge.allowed);
        if reaches(&self.current) {
            Place::Current
        } else if self.behind.as_deref().is_none_or(reaches) {
            Place::Behind
        } else {
            Place::Nowhere
        }
    }

    pub(crate) fn window(&mut self, place: Place) -> &mut Window {
        match place {
            Place::Behind => self.behind.get_or_insert_default(),
            Place::Current | Place::Nowhere => &mut self.current,
        }
    }

    pub(crate) fn windows(&mut self) -> impl Iterator<Item = &mut Window> {
        std::iter::once(&mut self.current).chain(self.behind.as_deref_mut())
    }

    /// Sources that its windows name by index, as often as they do.
    pub(crate) fn sources(&self) -> impl Iterator<Item = u16> {
        std::iter::once(&self.current).chain(self.behind.as_deref()).flat_map(Window::sources)
    }

    /// Memory in entries.
    pub(crate) fn size(&self) -> usize {
        self.current.size() + self.behind.as_ref().map_or(0, |window| window.size())
    }

    pub(crate) fn evidence_bytes(&self) -> usize {
        self.current.evidence_bytes() + self.behind.as_ref().map_or(0, |window| window.evidence_bytes())
    }
}
