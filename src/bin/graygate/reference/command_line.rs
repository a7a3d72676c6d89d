//! The page of the command line.

use super::markdown::head;

const INTRO: &str = "\
`make tool` builds it as `target/release/graygate`. It runs the filter's own code and needs no proxy.
";

/// Returns the page with all commands of this tool.
pub fn page(tool: clap::Command) -> String {
    let mut page = head("Command line", INTRO);
    for command in commands(tool) {
        page += &command;
    }
    page
}

/// Returns a section for the tool itself and for each of its commands.
fn commands(mut tool: clap::Command) -> Vec<String> {
    // The width must not depend on the terminal.
    tool = tool.term_width(100);
    tool.build();
    let section = |command: &mut clap::Command, name: &str| {
        let help = command.render_long_help().to_string();
        let lines: Vec<_> = help.lines().map(str::trim_end).collect();
        format!("\n## {name}\n\n```text\n{}\n```\n", lines.join("\n").trim_end())
    };
    let mut sections = vec![section(&mut tool, "graygate")];
    for command in
        tool.get_subcommands_mut().filter(|command| !command.is_hide_set() && command.get_name() != "help")
    {
        let name = format!("graygate {}", command.get_name());
        sections.push(section(command, &name));
    }
    sections
}
