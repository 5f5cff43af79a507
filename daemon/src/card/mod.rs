//! Recovery cards: plan, image, injection, device.
