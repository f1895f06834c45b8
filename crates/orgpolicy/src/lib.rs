//! Organization policies: what new resources of a project may be.
//!
//! A *constraint* is one thing that can be restricted; a *policy* is what a project says about one constraint.
//! [`Policies`] keeps them and answers the questions of those who make resources.
//!
//! Invariant: a policy binds what is made after it was set, and nothing that was there. It is durable before it is
//! acknowledged, and in force from then on. A specification that is kept was checked: evaluation cannot fail.

mod check;
mod constraint;
mod evaluate;
mod policies;
mod policy;
mod validate;

pub use constraint::{Constraint, Kind};
pub use policies::{Part, Policies, Wish, WishedSpec};
pub use policy::{KeptSpec, Policy, PolicyName, Rule, Spec, project};

#[cfg(test)]
mod tests;
