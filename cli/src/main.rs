//! `rtc`
fn main() {}
