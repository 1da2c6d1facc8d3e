"""The trace viewer: completions of a run to look through, served on this machine or as one offline file."""
