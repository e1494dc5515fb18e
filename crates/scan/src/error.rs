//! What can go wrong before a scan starts. Nothing here touches the beam.

use domain::Invalid;

/// A plan was refused. The beam is untouched; correct what is named and ask again.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// A value of the plan is outside its range.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The plan names a policy that this version does not have; choose one of `allowed`.
    #[error("pattern: {name} is not implemented in this version (allowed: {allowed})")]
    NotImplemented {
        /// The name as the operator typed it.
        name: &'static str,
        /// Names that can be used.
        allowed: String,
    },
}
