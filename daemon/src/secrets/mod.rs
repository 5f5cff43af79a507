//! SecretRef to zeroised bytes.
