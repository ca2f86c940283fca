"""The command `turbosparse`: one module per subcommand, imported when it is invoked."""
