//! Peers of the allocator.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use lbcore::addr::{AddressRange, Family, from_bits, to_bits};

use super::{System, name};

type Map<K, V> = HashMap<K, V, RandomState>;

/// The algorithm of MetalLB's allocator, written anew from its description: this is not MetalLB's code.
///
/// A pool is walked from its lowest address; at each, the address is printed and looked up in hash tables keyed by
/// that text, until one is free or may be shared. State is four tables: allocations by service, and by address the
/// sharing key, the ports in use and the services. Kinder than the original where it matters little: no error is
/// written for each address passed over, and the hash function is a fast one.
#[derive(Default)]
pub(super) struct MetalLbScan {
    range: Option<AddressRange>,
    allocated: Map<String, Held>,
    sharing_key_for_ip: Map<String, Key>,
    ports_in_use: Map<String, Map<ScanPort, String>>,
    services_on_ip: Map<String, Map<String, bool>>,
}

struct Held {
    ips: Vec<IpAddr>,
    ports: Vec<ScanPort>,
}

#[derive(Clone, PartialEq, Eq)]
struct Key {
    sharing: String,
    backend: String,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct ScanPort {
    protocol: String,
    port: u16,
}

pub(super) struct ScanRequest {
    service: String,
    ports: Vec<ScanPort>,
    key: Key,
}

impl MetalLbScan {
    fn may_have(&self, ip: &str, request: &ScanRequest) -> bool {
        if let Some(key) = self.sharing_key_for_ip.get(ip) {
            let sharing_ok = !key.sharing.is_empty() && *key == request.key;
            let others = self.services_on_ip.get(ip);
            if !sharing_ok
                && others.is_some_and(|others| others.keys().any(|other| *other != request.service))
            {
                return false;
            }
        }
        let used = self.ports_in_use.get(ip);
        request
            .ports
            .iter()
            .all(|port| used.and_then(|used| used.get(port)).is_none_or(|holder| *holder == request.service))
    }

    fn assign(&mut self, request: &ScanRequest, address: IpAddr) {
        let ip = address.to_string();
        self.sharing_key_for_ip.insert(ip.clone(), request.key.clone());
        let used = self.ports_in_use.entry(ip.clone()).or_default();
        for port in &request.ports {
            used.insert(port.clone(), request.service.clone());
        }
        self.services_on_ip.entry(ip).or_default().insert(request.service.clone(), true);
        let held = Held { ips: vec![address], ports: request.ports.clone() };
        self.allocated.insert(request.service.clone(), held);
    }
}

impl System for MetalLbScan {
    type Request = ScanRequest;

    fn new(range: AddressRange) -> Self {
        Self { range: Some(range), ..Self::default() }
    }

    fn request(number: u32, _family: Family, shared: bool) -> ScanRequest {
        let (namespace, name) = name(number);
        ScanRequest {
            service: format!("{namespace}/{name}"),
            ports: vec![ScanPort { protocol: "TCP".to_owned(), port: 80 }],
            key: Key {
                sharing: if shared { "shared".to_owned() } else { String::new() },
                backend: String::new(),
            },
        }
    }

    fn adopt(&mut self, request: &ScanRequest, address: IpAddr) {
        if self.may_have(&address.to_string(), request) {
            self.assign(request, address);
        }
    }

    fn allocate(&mut self, request: &ScanRequest) -> Option<IpAddr> {
        let range = self.range?;
        let mut bits = to_bits(range.first())..=to_bits(range.last());
        let address = bits.find_map(|bits| {
            let address = from_bits(range.family(), bits);
            self.may_have(&address.to_string(), request).then_some(address)
        })?;
        self.assign(request, address);
        Some(address)
    }

    fn release(&mut self, request: &ScanRequest) {
        let Some(held) = self.allocated.remove(&request.service) else { return };
        for address in held.ips {
            let ip = address.to_string();
            if let Some(used) = self.ports_in_use.get_mut(&ip) {
                held.ports.iter().for_each(|port| drop(used.remove(port)));
            }
            if let Some(services) = self.services_on_ip.get_mut(&ip) {
                services.remove(&request.service);
                if services.is_empty() {
                    self.services_on_ip.remove(&ip);
                    self.ports_in_use.remove(&ip);
                    self.sharing_key_for_ip.remove(&ip);
                }
            }
        }
    }
}

/// The least that does it: an ordered set of what is taken, walked until there is a gap.
#[derive(Default)]
pub(super) struct BTreeSetScan {
    range: Option<AddressRange>,
    taken: BTreeSet<IpAddr>,
    owners: BTreeMap<String, IpAddr>,
}

impl System for BTreeSetScan {
    type Request = String;

    fn new(range: AddressRange) -> Self {
        Self { range: Some(range), ..Self::default() }
    }

    /// The key that all share changes nothing here: they have the same port.
    fn request(number: u32, _family: Family, _shared: bool) -> String {
        let (namespace, name) = name(number);
        format!("{namespace}/{name}")
    }

    fn adopt(&mut self, request: &String, address: IpAddr) {
        self.taken.insert(address);
        self.owners.insert(request.clone(), address);
    }

    fn allocate(&mut self, request: &String) -> Option<IpAddr> {
        let range = self.range?;
        let mut gap = to_bits(range.first());
        for taken in &self.taken {
            if to_bits(*taken) > gap {
                break;
            }
            gap = to_bits(*taken).checked_add(1)?;
        }
        let address = from_bits(range.family(), gap);
        range.contains(address).then(|| self.adopt(request, address))?;
        Some(address)
    }

    fn release(&mut self, request: &String) {
        if let Some(address) = self.owners.remove(request) {
            self.taken.remove(&address);
        }
    }
}
