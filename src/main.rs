//! The `bitjoule` command.

fn main() -> std::process::ExitCode {
    bitjoule::cli::main()
}
