//! Files to fragments to every room's validated settings; all errors at once.
