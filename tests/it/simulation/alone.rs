//! Every protection in a scenario in which it is the only one left.
//!
//! A scenario is run twice: as it is, and with the one protection out of the way, by a setting or because whoever it guards against
//! satisfies it. What must not happen does not happen the first time and happens the second, so nothing else stood in between. That
//! the scenario fails when the protection is taken out of the source is held by the list of mutants, which names it.

mod controller;
mod engine;

/// What must not happen (beam that nobody may have, exposures at a wrong place …), counted: with the protection, and without.
fn only_protection(harm: impl Fn(bool) -> u64) {
    assert_eq!(harm(true), 0, "it does not protect");
    assert!(harm(false) > 0, "something else protects, too");
}
