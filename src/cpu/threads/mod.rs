//! Work shared out over threads, and the memory that one call keeps for the next.

mod schedule;
mod shared;
mod spare;
mod team;

pub use schedule::Schedule;
pub use shared::Shared;
pub use spare::Spare;
pub use team::for_each;
