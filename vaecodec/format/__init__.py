"""The .vaec file, with the standard library only: records, container, tiles on disk, sources of bytes."""
