"""What people look at: figures, report, command line."""
