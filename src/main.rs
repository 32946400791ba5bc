//! The program: arguments in, exit code out. What happens in between is `cli`'s.

/// Gives memory back after a burst, which the system's allocator does not: `benches/README.md` has
/// the figures.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    gateway_websocket::cli::main()
}
