// Package telemetry is how a process of a host tells what it does: log lines and
// spans. Metrics belong to whoever counts.
//
//   - One record is one line, however hostile the text in it: what a terminal,
//     a log reader or journald would take for the end of a line, for another
//     line or for a command is taken out or escaped, in each format.
//   - A line is bounded, below the size at which journald splits one.
//   - A Limiter bounds how many lines one source gets, and counts what it drops,
//     so that no VM fills the log of its host or hides what others say.
//   - Tracing never holds anybody up: spans wait in a bounded queue and are
//     dropped when it is full or nobody takes them; that is said once.
//   - A span says nothing of what a request holds: it has the names of methods,
//     routes and codes, and ids of runs.
//   - A span's identity can be given, so that processes which know the same
//     names agree on it without having met.
package telemetry
