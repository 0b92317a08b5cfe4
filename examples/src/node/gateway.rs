//! Gateways.
use super::Stage;
use lbcore::condition::Condition;
use lbcore::manifest::Objects;
use lbcore::plan::{Allocations, World};
/// Serves Gateways.
#[derive(Debug)]
pub struct Gateways;
impl Gateways {
    pub(super) fn start(_: &mut Stage) -> Self {
        Self
    }
    /// x
    pub fn demand(&self, _: &Objects, _: &mut World) {}
    /// x
    pub fn apply(&mut self, _: &Objects, _: &Allocations) -> Vec<(String, Condition)> {
        Vec::new()
    }
}
