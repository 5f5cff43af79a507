//! The protos stay compatible with `metis.v1.binpb`, the committed descriptor set of what clients and daemons in the field speak.
//!
//! After an addition: `METIS_BLESS=1 cargo test -p metis-proto --test compatibility`, and commit the file. A field or enum value that
//! goes must be reserved, by number and name; other incompatible changes need a new package.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::path::Path;

use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, ServiceDescriptorProto,
};

/// What would break a peer that speaks `old`; empty where nothing does.
fn violations(old: &FileDescriptorSet, new: &FileDescriptorSet) -> Vec<String> {
    let (old, new) = (Package::of(old), Package::of(new));
    let mut found = Vec::new();
    for (name, message) in &old.messages {
        match new.messages.get(name) {
            Some(now) => message_violations(name, message, now, &mut found),
            None => found.push(format!("message {name} is gone")),
        }
    }
    for (name, values) in &old.enums {
        match new.enums.get(name) {
            Some(now) => enum_violations(name, values, now, &mut found),
            None => found.push(format!("enum {name} is gone")),
        }
    }
    for (name, service) in &old.services {
        match new.services.get(name) {
            Some(now) => service_violations(name, service, now, &mut found),
            None => found.push(format!("service {name} is gone")),
        }
    }
    found
}

/// All definitions by full name.
#[derive(Default)]
struct Package<'a> {
    messages: BTreeMap<String, &'a DescriptorProto>,
    enums: BTreeMap<String, &'a EnumDescriptorProto>,
    services: BTreeMap<String, &'a ServiceDescriptorProto>,
}

impl<'a> Package<'a> {
    fn of(set: &'a FileDescriptorSet) -> Self {
        let mut all = Self::default();
        for file in &set.file {
            let name = |part: &str| format!("{}.{part}", file.package());
            file.message_type.iter().for_each(|m| all.message(name(m.name()), m));
            file.enum_type.iter().for_each(|e| _ = all.enums.insert(name(e.name()), e));
            file.service.iter().for_each(|s| _ = all.services.insert(name(s.name()), s));
        }
        all
    }

    fn message(&mut self, name: String, message: &'a DescriptorProto) {
        for nested in &message.nested_type {
            self.message(format!("{name}.{}", nested.name()), nested);
        }
        for nested in &message.enum_type {
            self.enums.insert(format!("{name}.{}", nested.name()), nested);
        }
        self.messages.insert(name, message);
    }
}

fn message_violations(name: &str, old: &DescriptorProto, new: &DescriptorProto, found: &mut Vec<String>) {
    // The end of a message's reserved range is exclusive.
    let reserved = |m: &DescriptorProto, number| m.reserved_range.iter().any(|r| (r.start()..r.end()).contains(&number));
    for field in &old.field {
        let (number, label) = (field.number(), field.name());
        match new.field.iter().find(|f| f.number() == number) {
            Some(now) if shape(old, field) != shape(new, now) => {
                found.push(format!("{name}.{label} = {number} was {}, is {}", shape(old, field), shape(new, now)));
            }
            Some(_) => (),
            None if reserved(new, number) && new.reserved_name.iter().any(|r| r == label) => (),
            None => found.push(format!("{name}.{label} = {number} is gone and not reserved by number and name")),
        }
    }
    for range in &old.reserved_range {
        if let Some(number) = (range.start()..range.end()).find(|n| !reserved(new, *n)) {
            found.push(format!("{name}: {number} is not reserved any more"));
        }
    }
}

/// All that a peer depends on; the name too, for JSON.
fn shape(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let oneof = field.oneof_index.and_then(|i| message.oneof_decl.get(i as usize)).map_or("", |o| o.name());
    let oneof = if oneof.is_empty() { String::new() } else { format!(" in {oneof}") };
    format!("{:?} {:?}{} \"{}\"{oneof}", field.label(), field.r#type(), field.type_name(), field.name())
}

fn enum_violations(name: &str, old: &EnumDescriptorProto, new: &EnumDescriptorProto, found: &mut Vec<String>) {
    // The end of an enum's reserved range is inclusive.
    let reserved = |e: &EnumDescriptorProto, number| e.reserved_range.iter().any(|r| (r.start()..=r.end()).contains(&number));
    for value in &old.value {
        let (number, label) = (value.number(), value.name());
        match new.value.iter().find(|v| v.number() == number) {
            Some(now) if now.name() != label => found.push(format!("{name}: {number} was {label}, is {}", now.name())),
            Some(_) => (),
            None if reserved(new, number) && new.reserved_name.iter().any(|r| r == label) => (),
            None => found.push(format!("{name}: {label} = {number} is gone and not reserved by number and name")),
        }
    }
    for range in &old.reserved_range {
        if let Some(number) = (range.start()..=range.end()).find(|n| !reserved(new, *n)) {
            found.push(format!("{name}: {number} is not reserved any more"));
        }
    }
}

fn service_violations(name: &str, old: &ServiceDescriptorProto, new: &ServiceDescriptorProto, found: &mut Vec<String>) {
    for method in &old.method {
        let call = format!("{name}/{}", method.name());
        let Some(now) = new.method.iter().find(|m| m.name() == method.name()) else {
            found.push(format!("{call} is gone"));
            continue;
        };
        if (method.client_streaming(), method.server_streaming()) != (now.client_streaming(), now.server_streaming()) {
            found.push(format!("{call} streams differently"));
        }
        if (method.input_type(), method.output_type()) != (now.input_type(), now.output_type()) {
            found.push(format!("{call} takes or returns another message"));
        }
    }
}

/// The package without comments and without Google's types.
fn present() -> FileDescriptorSet {
    let mut set = FileDescriptorSet::decode(metis_proto::DESCRIPTOR_SET).unwrap();
    set.file.retain(|f| f.package() == "metis.v1");
    set.file.iter_mut().for_each(|f| f.source_code_info = None);
    set
}

fn committed() -> (std::path::PathBuf, Option<FileDescriptorSet>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("metis.v1.binpb");
    let set = std::fs::read(&path).ok().map(|bytes| FileDescriptorSet::decode(bytes.as_slice()).unwrap());
    (path, set)
}

#[test]
fn the_protos_are_compatible_with_the_committed_ones() {
    let (path, old) = committed();
    let found = old.as_ref().map(|old| violations(old, &present())).unwrap_or_default();
    assert!(found.is_empty(), "incompatible with {}:\n  {}", path.display(), found.join("\n  "));
    if std::env::var_os("METIS_BLESS").is_some() {
        std::fs::write(&path, present().encode_to_vec()).unwrap();
        return;
    }
    // An addition that is not recorded could be removed again unseen.
    assert!(old.as_ref() == Some(&present()), "{} is out of date: see the top of this test", path.display());
}

#[test]
fn zero_of_every_enum_is_unspecified() {
    let set = present();
    for (name, values) in Package::of(&set).enums {
        let zero = values.value.iter().find(|v| v.number() == 0).unwrap();
        assert!(zero.name().ends_with("_UNSPECIFIED"), "{name}: {}", zero.name());
    }
}

fn message<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut DescriptorProto {
    set.file.iter_mut().flat_map(|f| &mut f.message_type).find(|m| m.name() == name).unwrap()
}

fn phase(set: &mut FileDescriptorSet) -> &mut EnumDescriptorProto {
    set.file.iter_mut().flat_map(|f| &mut f.enum_type).find(|e| e.name() == "Phase").unwrap()
}

fn card(set: &mut FileDescriptorSet) -> &mut ServiceDescriptorProto {
    set.file.iter_mut().flat_map(|f: &mut FileDescriptorProto| &mut f.service).find(|s| s.name() == "Card").unwrap()
}

fn field<'a>(set: &'a mut FileDescriptorSet, message_name: &str, name: &str) -> &'a mut FieldDescriptorProto {
    message(set, message_name).field.iter_mut().find(|f| f.name() == name).unwrap()
}

/// Takes Device.serial (5) away, reserving what is asked for.
fn remove_serial(set: &mut FileDescriptorSet, number: bool, name: bool) {
    let device = message(set, "Device");
    device.field.retain(|f| f.name() != "serial");
    if number {
        device.reserved_range.push(prost_types::descriptor_proto::ReservedRange { start: Some(5), end: Some(6) });
    }
    if name {
        device.reserved_name.push("serial".into());
    }
}

/// A change and the start of what it is called; `None`: it is allowed.
type Case = (fn(&mut FileDescriptorSet), Option<&'static str>);

#[test]
fn each_incompatible_change_is_found() {
    use prost_types::field_descriptor_proto::{Label, Type};
    let table: &[Case] = &[
        (|_| (), None),
        (
            |s| message(s, "Device").field.push(FieldDescriptorProto { number: Some(99), name: Some("new".into()), ..Default::default() }),
            None,
        ),
        (|s| remove_serial(s, true, true), None),
        (|s| remove_serial(s, true, false), Some("metis.v1.Device.serial = 5 is gone")),
        (|s| remove_serial(s, false, true), Some("metis.v1.Device.serial = 5 is gone")),
        (|s| field(s, "Device", "serial").number = Some(55), Some("metis.v1.Device.serial = 5 is gone")),
        (|s| field(s, "Device", "serial").name = Some("sn".into()), Some("metis.v1.Device.serial = 5 was")),
        (|s| field(s, "Device", "size").set_type(Type::Int64), Some("metis.v1.Device.size = 3 was Optional Uint64")),
        (|s| field(s, "Device", "model").set_label(Label::Repeated), Some("metis.v1.Device.model = 4 was Optional")),
        (|s| field(s, "CardPlanResponse", "plan").type_name = Some(".metis.v1.Run".into()), Some("metis.v1.CardPlanResponse.plan = 1 was")),
        (|s| field(s, "ImageRequest", "start").oneof_index = None, Some("metis.v1.ImageRequest.start = 1 was")),
        (|s| field(s, "UpsState", "charge").oneof_index = None, Some("metis.v1.UpsState.charge = 5 was")),
        (|s| s.file.iter_mut().for_each(|f| f.message_type.retain(|m| m.name() != "Device")), Some("message metis.v1.Device is gone")),
        (|s| phase(s).value.retain(|v| v.name() != "PHASE_HELD"), Some("metis.v1.Phase: PHASE_HELD = 3 is gone")),
        (|s| phase(s).value[3].name = Some("PHASE_WAITING".into()), Some("metis.v1.Phase: 3 was PHASE_HELD, is PHASE_WAITING")),
        (|s| phase(s).value[3].number = Some(33), Some("metis.v1.Phase: PHASE_HELD = 3 is gone")),
        (|s| s.file.iter_mut().for_each(|f| f.enum_type.clear()), Some("enum metis.v1.Phase is gone")),
        (|s| card(s).method.retain(|m| m.name() != "Burn"), Some("metis.v1.Card/Burn is gone")),
        (|s| card(s).method[2].client_streaming = Some(false), Some("metis.v1.Card/Image streams differently")),
        (|s| card(s).method[1].output_type = Some(".metis.v1.Run".into()), Some("metis.v1.Card/Burn takes or returns")),
        (|s| s.file.iter_mut().for_each(|f| f.service.clear()), Some("service metis.v1.Card is gone")),
    ];
    for (n, (change, expected)) in table.iter().enumerate() {
        let mut changed = present();
        change(&mut changed);
        let found = violations(&present(), &changed);
        match expected {
            None => assert_eq!(found, Vec::<String>::new(), "case {n}"),
            Some(start) => assert!(found.iter().any(|v| v.starts_with(start)), "case {n}: {start}: {found:?}"),
        }
    }
}

#[test]
fn a_reserved_number_stays_reserved() {
    let mut before = present();
    remove_serial(&mut before, true, true);
    let mut after = before.clone();
    message(&mut after, "Device").reserved_range.clear();
    assert_eq!(violations(&before, &after), ["metis.v1.Device: 5 is not reserved any more"]);
}

#[test]
fn nested_definitions_are_looked_at() {
    let mut without = present();
    message(&mut without, "CardSpec").nested_type.clear();
    let found = violations(&present(), &without);
    assert!(found.contains(&"message metis.v1.CardSpec.ImageOverrideEntry is gone".to_owned()), "{found:?}");
}
