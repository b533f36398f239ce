"""State that lasts: a run's snapshots, journal and results in an object store or a folder."""
