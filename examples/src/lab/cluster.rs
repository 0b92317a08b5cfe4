//! The machines of the lab and what is done to them.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};

use ipnet::IpNet;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::LabError;
use super::observe::Observer;
use super::story::Story;
use crate::netns::{Host, Segment};

/// A segment with machines, each of which runs at most one program.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) segment: Segment,
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
            machines: BTreeMap::new(),
            observer: observer.clone(),
            story: story.clone(),
        })
    }

    pub(super) fn add(&mut self, name: &str, addresses: &[IpNet]) -> Result<(), LabError> {
        let host = self.segment.host(name, addresses)?;
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

    pub(super) fn signal(&mut self, name: &str, signal: Signal) -> Result<(), LabError> {
        match &self.machine(name)?.process {
            Some(child) => signal_group(child, signal).map_err(LabError::Signal),
            None => Ok(()),
        }
    }

    /// SIGTERM to the program of a machine, and not to what it started: an orderly end, which it is given time for.
    pub(super) fn terminate(&mut self, name: &str) -> Result<(), LabError> {
        let machine = self.machine(name)?;
        let Some(child) = &machine.process else { return Ok(()) };
        let done = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
        machine.leaving = true;
        done.map_err(|errno| LabError::Signal(errno.into()))
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

/// Signals a child's process group, which has the child's number.
fn signal_group(child: &Child, signal: Signal) -> io::Result<()> {
    Ok(killpg(Pid::from_raw(child.id().cast_signed()), signal)?)
}
