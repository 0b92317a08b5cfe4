//! The lab's own manifests: the folders of the repository, and what options make of them.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::LabError;
use crate::netns::SCRATCH;

/// The nodes that the documents of the repository have.
const NODES: u8 = 3;

/// Where the addresses of `--address-count` are: the range for benchmarks (RFC 2544), on no subnet of the segment.
const MANY: &str = "198.18.0.0/15";

/// The families that the repository has documents of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Family {
    /// 192.0.2.0/24, from examples/manifests/lab
    Ipv4,
    /// 2001:db8::/64, from examples/manifests/lab-ipv6
    Ipv6,
}

impl Family {
    fn folder(self) -> &'static Path {
        Path::new(match self {
            Self::Ipv4 => concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/lab"),
            Self::Ipv6 => concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/lab-ipv6"),
        })
    }

    fn node(self, number: u8) -> String {
        match self {
            Self::Ipv4 => format!("192.0.2.{}", 10 + number),
            Self::Ipv6 => format!("2001:db8::{:x}", 0x10 + number),
        }
    }
}

/// Which documents to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args)]
pub struct OwnDocuments {
    /// Of which family the addresses of the lab's own documents are (those of --manifests decide that themselves)
    #[arg(long, value_enum, default_value = "ipv4")]
    family: Family,

    /// How many nodes there are
    #[arg(long, value_name = "COUNT", default_value_t = NODES, value_parser = clap::value_parser!(u8).range(2..=9))]
    nodes: u8,

    /// So many services more, each with an address of 198.18.0.0/15, which the witness on the segment asks for by ARP
    #[arg(long, value_name = "COUNT", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=20_000))]
    address_count: u32,
}

impl OwnDocuments {
    /// The files. Those that options made are in [`SCRATCH`], so in a sandbox.
    pub(super) fn files(&self) -> Result<Vec<PathBuf>, LabError> {
        let folder = self.family.folder();
        if self.address_count > 0 && self.family == Family::Ipv6 {
            return Err(LabError::Manifests("--address-count goes with --family ipv4 only".to_owned()));
        }
        let mut files = match self.nodes {
            NODES => vec![folder.to_owned()],
            _ => {
                let others = ["10-pool.yaml", "20-apps.yaml", "30-gateway.yaml", "40-service.yaml"];
                let mut files: Vec<PathBuf> = others.map(|file| folder.join(file)).to_vec();
                files.push(write("nodes.yaml", &self.nodes())?);
                files
            }
        };
        if self.address_count > 0 {
            files.push(write("many.yaml", &many(self.address_count))?);
        }
        Ok(files)
    }

    fn nodes(&self) -> String {
        let nodes = (1..=self.nodes).map(|number| {
            let address = self.family.node(number);
            format!(
                "---\napiVersion: v1\nkind: Node\nmetadata: {{name: n{number}}}\n\
                 status: {{addresses: [{{type: InternalIP, address: \"{address}\"}}]}}\n"
            )
        });
        nodes.collect()
    }
}

fn many(count: u32) -> String {
    let mut text = format!(
        "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {{name: many, namespace: metallb-system}}\n\
         spec: {{addresses: [{MANY}], autoAssign: false}}\n---\n\
         apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {{name: many, namespace: metallb-system}}\n\
         spec: {{ipAddressPools: [many]}}\n"
    );
    for number in 1..=count {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Service\n\
             metadata: {{name: many-{number:05}, namespace: default, annotations: {{metallb.io/address-pool: many}}}}\n\
             spec: {{type: LoadBalancer, ports: [{{name: http, port: 80}}]}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: many-{number:05}-1, namespace: default, \
             labels: {{kubernetes.io/service-name: many-{number:05}}}}}\naddressType: IPv4\n\
             ports: [{{name: http, port: 8080}}]\nendpoints: [{{addresses: [192.0.2.21]}}]\n"
        );
    }
    text
}

fn write(name: &str, text: &str) -> Result<PathBuf, LabError> {
    let path = Path::new(SCRATCH).join(name);
    std::fs::write(&path, text).map_err(|source| LabError::File { path: path.clone(), source })?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files;
    use lbcore::manifest::{self, SourceFile};

    #[test]
    fn made_documents_are_valid() {
        let own = OwnDocuments { family: Family::Ipv6, nodes: 9, address_count: 0 };
        let mut corpus = files::corpus();
        let texts = [SourceFile::new("nodes.yaml", own.nodes()), SourceFile::new("many.yaml", many(3))];
        assert_eq!(corpus.load(&texts).problems, []);
        assert_eq!(corpus.objects().iter::<manifest::Node>().count(), 9);
        assert_eq!(corpus.objects().iter::<manifest::Service>().count(), 3);
        assert!(own.nodes().contains("2001:db8::19"));
    }
}
