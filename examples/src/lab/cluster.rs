//! The machines of the lab and what is done to them.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};

use ipnet::IpNet;
use lbcore::time::Duration;
use nix::sys::signal::{Signal, kill, killpg};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::{Pid, getpgid};

use super::LabError;
use super::observe::Observer;
use super::story::Story;
use crate::netns::{Branch, Host, Segment};

/// A segment with machines, each of which runs at most one program.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) segment: Segment,
    /// What it falls into when it is partitioned.
    parts: Vec<Branch>,
    machines: BTreeMap<String, Machine>,
    observer: Observer,
    story: Story,
}

#[derive(Debug)]
struct Machine {
    host: Host,
    process: Option<Child>,
    /// It was told to end.
    leaving: bool,
}

impl Cluster {
    pub(super) fn new(observer: &Observer, story: &Story) -> Result<Self, LabError> {
        Ok(Self {
            segment: Segment::new("the segment")?,
            parts: Vec::new(),
            machines: BTreeMap::new(),
            observer: observer.clone(),
            story: story.clone(),
        })
    }

    /// Adds a part that [`Cluster::set_partition`] cuts off from the other ones, and returns its number. What is on no
    /// part is always heard by all.
    pub(super) fn add_part(&mut self, name: &str) -> Result<usize, LabError> {
        self.parts.push(self.segment.branch(name)?);
        Ok(self.parts.len() - 1)
    }

    pub(super) fn add(
        &mut self,
        name: &str,
        addresses: &[IpNet],
        part: Option<usize>,
    ) -> Result<(), LabError> {
        let part = part.and_then(|part| self.parts.get(part)).map_or(&self.segment, |branch| branch);
        let host = part.host(name, addresses)?;
        self.machines.insert(name.to_owned(), Machine { host, process: None, leaving: false });
        Ok(())
    }

    fn machine(&mut self, name: &str) -> Result<&mut Machine, LabError> {
        self.machines.get_mut(name).ok_or_else(|| LabError::NoSuchMachine(name.to_owned()))
    }

    /// Starts the program of a machine, in a process group of its own; its output is watched for `ready`.
    pub(super) fn start(&mut self, name: &str, command: &mut Command) -> Result<(), LabError> {
        let mut child = self.spawn(name, command.stderr(Stdio::piped()))?;
        let watch = self.observer.watch_process(name, &self.story);
        if let (Some(output), Some(errors)) = (child.stdout.take(), child.stderr.take()) {
            watch(Box::new(output));
            watch(Box::new(errors));
        }
        self.machine(name)?.process = Some(child);
        Ok(())
    }

    /// Starts a program whose standard output the caller reads.
    pub(super) fn spawn(&mut self, name: &str, command: &mut Command) -> Result<Child, LabError> {
        let failed = |source| LabError::Start { name: name.to_owned(), source };
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped());
        self.machine(name)?.host.spawn(command).map_err(failed)
    }

    /// SIGKILL to the program of a machine and all that it started; its namespace stays.
    pub(super) fn kill(&mut self, name: &str) -> Result<(), LabError> {
        if let Some(mut child) = self.machine(name)?.process.take() {
            signal_group(&child, Signal::SIGKILL)
                .and_then(|()| child.wait().map(drop))
                .map_err(LabError::Signal)?;
        }
        Ok(())
    }

    /// A signal to all programs of a machine.
    pub(super) fn signal(&mut self, name: &str, signal: Signal) -> Result<(), LabError> {
        match &self.machine(name)?.process {
            Some(child) => signal_group(child, signal).map_err(LabError::Signal),
            None => Ok(()),
        }
    }

    /// A signal to the program of a machine, and not to what it started: a word, which it may act on.
    pub(super) fn tell(&mut self, name: &str, signal: Signal) -> Result<(), LabError> {
        let Some(child) = &self.machine(name)?.process else { return Ok(()) };
        let done = kill(Pid::from_raw(child.id().cast_signed()), signal);
        done.map_err(|errno| LabError::Signal(errno.into()))
    }

    /// Tells the program of a machine to end in an orderly way, which it is given time for.
    pub(super) fn terminate(&mut self, name: &str) -> Result<(), LabError> {
        self.tell(name, Signal::SIGTERM)?;
        self.machine(name)?.leaving = true;
        Ok(())
    }

    /// Whether a program that was told to end has ended.
    pub(super) fn has_left(&mut self, name: &str) -> Result<bool, LabError> {
        let machine = self.machine(name)?;
        let Some(child) = &mut machine.process else { return Ok(true) };
        let left = child.try_wait().map_err(LabError::Signal)?.is_some();
        if left {
            (machine.process, machine.leaving) = (None, false);
        }
        Ok(left)
    }

    pub(super) fn cut(&mut self, name: &str) -> Result<(), LabError> {
        let Self { segment, machines, .. } = self;
        let machine = machines.get(name).ok_or_else(|| LabError::NoSuchMachine(name.to_owned()))?;
        Ok(segment.cut(&machine.host)?)
    }

    /// The cable first: a kernel whose cable is cut cannot say goodbye for its processes. A kernel without power forgets.
    pub(super) fn lose_power(&mut self, name: &str) -> Result<(), LabError> {
        self.cut(name)?;
        self.kill(name)?;
        let host = &self.machine(name)?.host;
        let own: Vec<IpAddr> = host.addresses().iter().map(IpNet::addr).collect();
        Ok(host.keep_addresses(&own)?)
    }

    pub(super) fn set_partition(&self, partition: bool) -> Result<(), LabError> {
        for part in &self.parts {
            part.set_isolated(partition)?;
        }
        Ok(())
    }

    /// The time that the programs of a machine have had of a processor so far, and the most memory that the first of
    /// them ever held, in KiB.
    pub(super) fn used(&self, name: &str) -> Option<(Duration, u64)> {
        let leader = Pid::from_raw(self.machines.get(name)?.process.as_ref()?.id().cast_signed());
        let processor = group(leader).into_iter().filter_map(processor_time).sum();
        let status = std::fs::read_to_string(format!("/proc/{leader}/status")).ok()?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some((processor, peak.trim().trim_end_matches(" kB").parse().ok()?))
    }

    /// The machine's own view of the network.
    pub(super) fn host(&mut self, name: &str) -> Result<&Host, LabError> {
        Ok(&self.machine(name)?.host)
    }

    pub(super) fn restore(&mut self, name: &str) -> Result<(), LabError> {
        let Self { segment, machines, .. } = self;
        let machine = machines.get(name).ok_or_else(|| LabError::NoSuchMachine(name.to_owned()))?;
        Ok(segment.restore(&machine.host)?)
    }

    /// The first program that ended without having been told to.
    pub(super) fn ended(&mut self) -> Option<(String, ExitStatus)> {
        self.machines.iter_mut().find_map(|(name, machine)| {
            if machine.leaving {
                return None;
            }
            let status = machine.process.as_mut()?.try_wait().ok()??;
            Some((name.clone(), status))
        })
    }
}

/// The processes of a group that are there now.
fn group(leader: Pid) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw);
    pids.filter(|pid| getpgid(Some(*pid)) == Ok(leader)).collect()
}

fn processor_time(pid: Pid) -> Option<Duration> {
    let clock = clock_getcpuclockid(pid).ok()?;
    Some(Duration::from(clock_gettime(clock).ok()?))
}

/// Signals a child's process group, which has the child's number.
fn signal_group(child: &Child, signal: Signal) -> io::Result<()> {
    Ok(killpg(Pid::from_raw(child.id().cast_signed()), signal)?)
}
