//! The program: arguments in, exit code out. What happens in between is `cli`'s.

fn main() -> std::process::ExitCode {
    gateway_websocket::cli::main()
}
