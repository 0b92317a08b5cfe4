//! Reads MetalLB and Kubernetes YAML documents.
//!
//! A [`Corpus`] reads whole sets of files: documents separated by `---`, `kind: List`, `ServiceList` and the
//! like, JSON too. It reports everything that is wrong at once, each [`Problem`] with file, document, line,
//! path of the field and the fix, and keeps the last valid version of what breaks on a reload.
//!
//! Kinds are read where they belong: a crate that owns one implements [`Kind`] for a type of its own, and
//! registers it in [`Kinds`]; the caller combines the crates that it uses.
//!
//! ```
//! use lbcore::manifest::{Corpus, Kind, Kinds, Object, SourceFile};
//!
//! #[derive(Debug, PartialEq)]
//! struct Probe {
//!     target: std::net::IpAddr,
//!     interval: std::time::Duration,
//! }
//!
//! impl Kind for Probe {
//!     const GROUP: &'static str = "example.org";
//!     const KIND: &'static str = "Probe";
//!     const VERSIONS: &'static [&'static str] = &["v1"];
//!     const NAMESPACED: bool = true;
//!     const STRICT: bool = true;
//!
//!     fn read(object: &Object<'_>) -> Option<Self> {
//!         object.spec().required().mapping(|spec| {
//!             let target = spec.get("target").required().address();
//!             let interval = spec.get("interval").required().duration();
//!             Some(Probe { target: target?, interval: interval? })
//!         })?
//!     }
//! }
//!
//! let mut corpus = Corpus::new(Kinds::new().read::<Probe>());
//! let text = "
//! apiVersion: example.org/v1
//! kind: Probe
//! metadata: {name: a}
//! spec: {target: ten, intervall: 3s}
//! ";
//! let report = corpus.load(&[SourceFile::new("a.yaml", text)]);
//! let problems: Vec<_> = report.problems.iter().map(ToString::to_string).collect();
//! assert_eq!(problems, [
//!     "a.yaml:5 (document 1): Probe default/a: spec.interval: is missing: add it",
//!     "a.yaml:5 (document 1): Probe default/a: spec.intervall: unknown field: did you mean `interval`?",
//!     "a.yaml:5 (document 1): Probe default/a: spec.target: \"ten\" is no IP address: write one like 192.0.2.1 or 2001:db8::1",
//! ]);
//! ```
//!
//! # Untrusted input
//! No text panics. Depth, aliases and the size of a file are bounded, so that the memory used stays within a
//! fixed multiple of the text's length.

mod corpus;
mod field;
mod kinds;
pub mod kubernetes;
pub mod metallb;
mod problem;
mod suggest;
mod world;
mod yaml;

pub use self::corpus::{Corpus, Findings, MAX_FILE_BYTES, Objects, Report, SourceFile};
pub use self::field::{Field, Mapping, Object, Scalar};
pub use self::kinds::{Kind, Kinds, ObjectId};
pub use self::kubernetes::{EndpointSlice, Namespace, Node, RequestAnnotations, Service};
pub use self::metallb::{BgpAdvertisement, Community, IpAddressPool, L2Advertisement};
pub use self::problem::{Notice, Place, Printable, Problem};
pub use self::world::{ask, namespace_labels, world};

/// Registers the kinds that this crate reads: MetalLB's pools and advertisements, and Kubernetes' `Service`,
/// `EndpointSlice`, `Node` and `Namespace`.
pub fn kinds(kinds: Kinds) -> Kinds {
    metallb::kinds(kubernetes::kinds(kinds))
}

#[cfg(test)]
mod tests;
