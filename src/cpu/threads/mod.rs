//! Distribution of work over threads, and memory that is kept between calls.

mod schedule;
mod shared;
mod spare;
mod team;

pub use schedule::Schedule;
pub use shared::Shared;
pub use spare::Spare;
pub use team::for_each;
