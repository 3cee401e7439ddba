//! What is wrong with a declaration, and how to mend it.

/// A declaration that cannot be compiled: which one, which field, what is wrong, the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{declaration}: key `{field}`: {problem}; {remedy}")]
pub struct DeclareError {
    /// Such as `metric "revenue"`.
    pub declaration: String,
    /// The field of the declaration.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

impl DeclareError {
    pub(super) fn new(
        declaration: &str,
        field: &'static str,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            declaration: declaration.to_owned(),
            field,
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}
