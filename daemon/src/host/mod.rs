//! This host: clock, boot id, service manager.
