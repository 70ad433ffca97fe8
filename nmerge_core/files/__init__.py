"""Files that people write and that NMerge wrote: bounded when read, whole when written, told of when damaged."""
