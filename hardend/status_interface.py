# SPDX-License-Identifier: Apache-2.0
"""What the status service offers, in Varlink's own words; the service gives these texts to clients.

``STATUS`` is etc/varlink/io.hardend.Status.varlink, word for word (a test compares them): the service
runs where it sees no file but the guard's.
"""

from __future__ import annotations

STATUS = r"""# SPDX-License-Identifier: Apache-2.0
# What hardend's guard says of this host; answered on /run/hardend/status for root and the group adm:
#     varlinkctl call /run/hardend/status io.hardend.Status.GetStatus '{}'
#
# The service is another process than the guard and answers also when the guard does not. Then
# nothing that the guard said is proven any more, and the answer is an error that says since when.
# Times are seconds since 1970, UTC. Names of files and texts that people wrote are shown with
# control characters, backslashes and bytes that are not UTF-8 as \xNN.
interface io.hardend.Status

# Whether a guard runs: it holds its lock and its heartbeat is fresh (running), it has published
# nothing yet (starting), it holds the lock but is silent (hung), nobody holds the lock (dead),
# or there was none since the host started (never_started).
type Guard (running, starting, hung, dead, never_started)

# The one word for the host, the worst of its paths: clean, drifted, contested, failed; window while a
# maintenance window is open and nothing else is wrong; off while enforcement is paused; unprotected
# without a baseline; starting before the first look at everything; unknown where the guard has not
# said anything.
type State (clean, drifted, contested, failed, window, off, unprotected, starting, unknown)

# Who approved the baseline, when (ISO 8601) and why.
type Approval (time: string, author: string, reason: string)

# A pause of enforcement.
type Pause (until: string, reason: string, by: string)

# What was changed in a maintenance window: when first and last (seconds since 1970), how often, how.
type Change (first: float, last: float, count: int, drift: []string)

# A maintenance window: the paths that are let go until it ends, by whom and why; the command of
# "hardend run" that it is for, or "". Expired: its time is over and its end is being worked on.
type Window (
  id: string,
  paths: []string,
  until: string,
  expired: bool,
  by: string,
  reason: string,
  command: string,
  changes: [string]Change
)

# A path that is not clean. The state is failed, contested, drifted or restored; the drift is any of
# content owner group mode flags acl xattr type target missing unexpected mount stale.
type Path (state: string, since: float, drift: []string, reason: string)

# The same with its name.
type Drift (path: string, state: string, since: float, drift: []string, reason: string)

# When a path drifted last and when it was back at the baseline, nanoseconds since 1970.
type LastDrift (since_ns: int, until_ns: int)

# How long restores took, microseconds, of the last thousand.
type Latency (count: int, last: int, median: int, p99: int)

# hardend's own files: how many, one digest of all, and when one of them changed (0: not seen).
type OwnFiles (count: int, digest: string, last_change: float)

# Everything that the guard publishes (schema 1), and whether it still holds. With unproven=true the
# answer is the last that is known, also when no guard runs, instead of an error; unproven_since is
# then the time of the guard's last word, and null in an answer that is proven.
method GetStatus(unproven: ?bool) -> (
  schema: int,
  guard: Guard,
  unproven_since: ?float,
  state: State,
  mode: ?string,
  since: ?float,
  pid: ?int,
  heartbeat: ?float,
  generation: ?int,
  layout: ?string,
  approved: ?Approval,
  entries: ?int,
  faults: ?[]string,
  paths: ?[string]Path,
  contested: ?[]string,
  off: ?Pause,
  windows: ?[]Window,
  last_drift: ?[string]LastDrift,
  events: ?[string]int,
  overflows: ?[string]int,
  last_pass: ?float,
  passes: ?int,
  restores: ?int,
  relocks: ?int,
  looks: ?int,
  taken: ?int,
  rebuilds: ?int,
  watches: ?int,
  journal_dropped: ?int,
  restore_us: ?Latency,
  scheduling: ?string,
  own_files: ?OwnFiles
)

# The paths that are not clean now, the worst first.
method GetDrift() -> (state: State, drifts: []Drift)

# The generation that is enforced; 0 and no approval where there is none.
method GetBaseline() -> (generation: int, approved: ?Approval, layout: string, entries: int)

# With the more flag: one reply now and one whenever anything but a counter of work changed, with the
# guard's end and return among them; at most four a second, and a slow reader gets the latest only.
# Without the flag one reply. An answer that is not proven is no error here: see guard.
method Monitor() -> (
  guard: Guard,
  unproven_since: ?float,
  state: State,
  mode: ?string,
  generation: ?int,
  faults: ?[]string,
  off: ?Pause,
  windows: ?[]Window,
  restores: ?int,
  drifts: []Drift
)

# No guard runs (dead or never_started). last_state is what the last one said at unproven_since.
error NotRunning (guard: Guard, unproven_since: ?float, last_state: State)

# A guard runs but has not said anything for seconds (hung), or not yet (starting).
error Stale (guard: Guard, unproven_since: ?float, last_state: State)
"""

# As https://varlink.org/Service has it.
SERVICE = """\
# The Varlink Service Interface is provided by every varlink service. It describes the service and the
# interfaces it implements.
interface org.varlink.service

# Get a list of all the interfaces a service provides and information about the implementation.
method GetInfo() -> (
  vendor: string,
  product: string,
  version: string,
  url: string,
  interfaces: []string
)

# Get the description of an interface that is implemented by this service.
method GetInterfaceDescription(interface: string) -> (description: string)

# The requested interface was not found.
error InterfaceNotFound (interface: string)

# The requested method was not found.
error MethodNotFound (method: string)

# The interface defines the requested method, but the service does not implement it.
error MethodNotImplemented (method: string)

# One of the passed parameters is invalid.
error InvalidParameter (parameter: string)
"""
