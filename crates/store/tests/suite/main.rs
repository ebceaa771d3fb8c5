//! Both stores: what every store must do, and what only each of them can meet.

mod postgres;
mod sqlite;
