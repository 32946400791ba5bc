//! What to do about a gateway that gives no answer.

use std::{fs, path::Path};

/// The remedy, for the end of a sentence: what is known of the process, and how to end it.
pub(super) fn advice(pid: u32, socket: &Path) -> String {
    if pid == 0 {
        // Its queue of connections is full, or it is in another container.
        return format!("find its process with: fuser {}", socket.display());
    }
    match state(pid) {
        Some('T' | 't') => format!(
            "process {pid} is stopped (SIGSTOP, or a debugger): kill -CONT {pid} lets it go on, \
             kill -9 {pid} ends it"
        ),
        Some('D') => format!(
            "process {pid} waits for the disk or the network (state D in /proc/{pid}/status); \
             kill -9 {pid} ends it as soon as that is over"
        ),
        Some('Z' | 'X') => format!("process {pid} has ended"),
        _ => format!(
            "look at process {pid} (its log, /proc/{pid}/status); kill -9 {pid} ends it, and its \
             clients are cut off"
        ),
    }
}

/// The state of a process (`proc_pid_stat(5)`): the letter behind its name, which is in brackets and
/// may hold any character, brackets too.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_names_the_process_or_how_to_find_it() {
        let own = std::process::id();
        let said = advice(own, Path::new("/s"));
        assert!(said.contains(&format!("kill -9 {own}")), "{said}");
        assert_eq!(advice(0, Path::new("/s")), "find its process with: fuser /s");
        assert!(state(own).is_some_and(|state| "RSD".contains(state)));
    }
}
