//! The key ring's rotation, as the operator sees it.
//!
//! The state machine itself is `rtc_credentials::rotate` (pure, property-tested, shared with
//! `rtc up`); what belongs here is the mapping: which pods must have read which revision
//! (`Acknowledged`), the annotations that rotate or revoke on demand, and the events to publish.
