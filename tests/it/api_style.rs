//! The style of the modern API, as buf's rules DEFAULT and COMMENTS have it, and that the numbers of
//! the classic one don't move.

use std::{collections::BTreeMap, ops::Range};

use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet, MessageOptions,
    ServiceDescriptorProto, field_descriptor_proto::Label,
};

const PACKAGE: &str = "gateway.v1";

fn descriptors(name: &str) -> Vec<FileDescriptorProto> {
    let path = std::path::Path::new(env!("OUT_DIR")).join(name);
    FileDescriptorSet::decode(&*std::fs::read(path).unwrap()).unwrap().file
}

/// What is wrong with a file.
#[derive(Default)]
struct Judge {
    /// The comments by the paths of what they are about (`SourceCodeInfo.Location`).
    comments: BTreeMap<Vec<i32>, String>,
    wrong: Vec<String>,
}

impl Judge {
    fn expect(&mut self, is_so: bool, wrong: impl FnOnce() -> String) {
        if !is_so {
            self.wrong.push(wrong());
        }
    }

    /// What stands at the path, and is called so, is explained.
    fn explained(&mut self, path: &[i32], name: &str) {
        let text = self.comments.get(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let is_sentence = text.ends_with(['.', ')']) && text.len() > 4;
        self.expect(is_sentence, || format!("{name} is not explained by a sentence: {text:?}"));
    }

    fn file(&mut self, file: &FileDescriptorProto) {
        let name = file.name();
        self.expect(file.package() == PACKAGE, || format!("{name}: package {}", file.package()));
        self.expect(file.syntax() == "proto3", || format!("{name}: {}", file.syntax()));
        let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
        self.expect(folder == PACKAGE.replace('.', "/"), || format!("{name}: not in its package"));
        let stem = name.rsplit('/').next().unwrap_or_default().trim_end_matches(".proto");
        self.expect(is_snake(stem), || format!("{name}: its name is no lower_snake_case"));
        self.expect(file.service.len() < 2, || format!("{name}: has several services"));
        for (at, service) in (0..).zip(&file.service) {
            self.service(&[6, at], service, stem);
        }
        for (at, message) in (0..).zip(&file.message_type) {
            self.message(&[4, at], message);
        }
        for (at, listed) in (0..).zip(&file.enum_type) {
            self.listed(&[5, at], listed);
        }
    }

    fn service(&mut self, path: &[i32], service: &ServiceDescriptorProto, stem: &str) {
        let name = service.name();
        self.explained(path, name);
        self.expect(is_pascal(name), || format!("{name}: no PascalCase"));
        self.expect(snake(name) == stem, || format!("{name}: stands in {stem}.proto"));
        for (at, method) in (0..).zip(&service.method) {
            let call = method.name();
            self.explained(&[path, &[2, at]].concat(), &format!("{name}.{call}"));
            self.expect(is_pascal(call), || format!("{name}.{call}: no PascalCase"));
            for (kind, is) in [("Request", method.input_type()), ("Response", method.output_type())]
            {
                let expected = format!(".{PACKAGE}.{call}{kind}");
                self.expect(is == expected, || format!("{name}.{call}: {is}, not {expected}"));
            }
        }
    }

    fn message(&mut self, path: &[i32], message: &DescriptorProto) {
        let name = message.name();
        if message.options.as_ref().is_some_and(MessageOptions::map_entry) {
            return;
        }
        self.explained(path, name);
        self.expect(is_pascal(name), || format!("{name}: no PascalCase"));
        let mut numbers = Vec::new();
        for (at, field) in (0..).zip(&message.field) {
            let (field, full) = (field, format!("{name}.{}", field.name()));
            self.explained(&[path, &[2, at]].concat(), &full);
            self.expect(is_snake(field.name()), || format!("{full}: no lower_snake_case"));
            self.expect(field.label() != Label::Required, || format!("{full}: required"));
            numbers.push(field.number());
        }
        let reserved = message.reserved_range.iter().map(|it| it.start()..it.end());
        let gap = gap(numbers, &reserved.collect::<Vec<_>>());
        self.expect(gap.is_none(), || format!("{name}: {}", gap.clone().unwrap_or_default()));
        for oneof in &message.oneof_decl {
            self.expect(is_snake(oneof.name()), || format!("{name}.{}: its case", oneof.name()));
        }
        for (at, inner) in (0..).zip(&message.nested_type) {
            self.message(&[path, &[3, at]].concat(), inner);
        }
        for (at, inner) in (0..).zip(&message.enum_type) {
            self.listed(&[path, &[4, at]].concat(), inner);
        }
    }

    fn listed(&mut self, path: &[i32], listed: &EnumDescriptorProto) {
        let name = listed.name();
        self.explained(path, name);
        self.expect(is_pascal(name), || format!("{name}: no PascalCase"));
        let prefix = format!("{}_", snake(name).to_uppercase());
        let mut numbers = Vec::new();
        for (at, value) in (0..).zip(&listed.value) {
            let is = value.name();
            self.explained(&[path, &[2, at]].concat(), is);
            let upper =
                is.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
            self.expect(upper && is.starts_with(&prefix), || format!("{is}: not {prefix}…"));
            let is_unspecified = is == format!("{prefix}UNSPECIFIED");
            self.expect(is_unspecified == (value.number() == 0), || format!("{is}: its number"));
            numbers.push(value.number() + 1);
        }
        let reserved = listed.reserved_range.iter().map(|it| it.start() + 1..it.end() + 2);
        let gap = gap(numbers, &reserved.collect::<Vec<_>>());
        self.expect(gap.is_none(), || format!("{name}: {}", gap.clone().unwrap_or_default()));
    }
}

/// What is wrong with the numbers, which should be all from 1, but for those that are reserved.
fn gap(mut numbers: Vec<i32>, reserved: &[Range<i32>]) -> Option<String> {
    numbers.sort_unstable();
    let most = numbers.last().copied().unwrap_or_default();
    for number in 1..=most {
        let is_reserved = reserved.iter().any(|range| range.contains(&number));
        match (numbers.iter().filter(|it| **it == number).count(), is_reserved) {
            (1, false) | (0, true) => {}
            (count, _) => return Some(format!("number {number} stands {count} times")),
        }
    }
    None
}

fn is_pascal(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.bytes().all(|b| b.is_ascii_alphanumeric())
}

fn is_snake(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(allowed)
        && !name.contains("__")
        && !name.ends_with('_')
}

fn snake(pascal: &str) -> String {
    let mut snake = String::new();
    for (at, character) in pascal.char_indices() {
        if character.is_ascii_uppercase() && at > 0 {
            snake.push('_');
        }
        snake.push(character.to_ascii_lowercase());
    }
    snake
}

fn judge(files: &[FileDescriptorProto]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut used = BTreeMap::<String, usize>::new();
    for file in files {
        let located = file.source_code_info.iter().flat_map(|info| &info.location);
        let comments =
            located.map(|it| (it.path.clone(), it.leading_comments().to_owned())).collect();
        let mut judge = Judge { comments, wrong: Vec::new() };
        judge.file(file);
        wrong.append(&mut judge.wrong);
        for method in file.service.iter().flat_map(|service| &service.method) {
            for name in [method.input_type(), method.output_type()] {
                *used.entry(name.to_owned()).or_default() += 1;
            }
        }
    }
    wrong.extend(used.iter().filter(|it| *it.1 > 1).map(|(name, _)| format!("{name}: used twice")));
    wrong
}

fn modern() -> Vec<FileDescriptorProto> {
    let mut files = descriptors("v1.commented.bin");
    files.retain(|file| file.package() == PACKAGE);
    files
}

#[test]
fn the_modern_api_keeps_to_the_rules_and_explains_everything() {
    let files = modern();
    assert_eq!(files.len(), 7);
    assert_eq!(judge(&files), Vec::<String>::new());
}

/// Breaks a rule.
type Change<'a> = &'a dyn Fn(&mut FileDescriptorProto);

#[test]
fn the_rules_see_what_they_look_for() {
    let broken = |change: Change<'_>| {
        let mut files = modern();
        let messages = files.iter_mut().find(|file| file.name().ends_with("types.proto"));
        change(messages.unwrap());
        judge(&files).join("\n")
    };
    let field = |file: &mut FileDescriptorProto, name: &str, number| {
        let field = &mut file.message_type[0].field[1];
        (field.name, field.number) = (Some(name.to_owned()), Some(number));
    };
    let value = |file: &mut FileDescriptorProto, at: usize, name: &str| {
        file.enum_type[0].value[at].name = Some(name.to_owned());
    };
    let cases: &[(Change<'_>, &str)] = &[
        (&|file| file.package = Some("gateway.v2".into()), "package gateway.v2"),
        (&|file| file.name = Some("gateway/types.proto".into()), "not in its package"),
        (&|file| file.source_code_info = None, "Target is not explained"),
        (&|file| field(file, "Clients", 2), "Target.Clients: no lower_snake_case"),
        (&|file| field(file, "clients", 1), "Target: number 1 stands 2 times"),
        (&|file| field(file, "clients", 9), "Target: number 2 stands 0 times"),
        (&|file| file.message_type[0].name = Some("target".into()), "target: no PascalCase"),
        (&|file| value(file, 0, "KIND_NONE"), "KIND_NONE: its number"),
        (&|file| value(file, 1, "TEXT"), "TEXT: not KIND_"),
    ];
    for (change, expected) in cases {
        let wrong = broken(*change);
        assert!(wrong.contains(expected), "{expected} is not in\n{wrong}");
    }
    let mut files = modern();
    let service = files.iter_mut().flat_map(|file| &mut file.service).next().unwrap();
    service.method[0].output_type = Some(".gateway.v1.Target".into());
    let wrong = judge(&files).join("\n");
    assert!(wrong.contains(".gateway.v1.Target, not .gateway.v1."), "{wrong}");
}

/// The fields of the classic API in the order of their numbers, which are 1, 2 and so on, each with
/// its type (9 is a string, 8 a bool, 5 an int32, * a list): programs that were built years ago rely
/// on them.
const CLASSIC: &str = "\
BroadcastMessageRequest message:9
BroadcastMessageResponse result:8
ClientBindUidRequest clientid:9 uid:9
ClientBindUidResponse result:8
ClientIsOnlineRequest clientid:9
ClientIsOnlineResponse isonline:8
ClonseClientRequest clientid:9
ClonseClientResponse result:8
CountGroupRequest
CountGroupResponse count:5
CountOnlineClientRequest
CountOnlineClientResponse count:5
CountOnlineGroupRequest group:9
CountOnlineGroupResponse count:5
CountOnlineUidRequest
CountOnlineUidResponse count:5
GetAllOnlineClientRequest
GetAllOnlineClientResponse client:9*
GetAllOnlineUidRequest
GetAllOnlineUidResponse uid:9*
GetClientByUidRequest clientid:9
GetClientByUidResponse uid:9
GetGroupOnlineClientRequest group:9
GetGroupOnlineClientResponse clientid:9*
GetUidByClientRequest uid:9
GetUidByClientResponse clientid:9*
JoinGroupRequest clientid:9 group:9
JoinGroupResponse result:8
LeaveGroupRequest clientid:9 group:9
LeaveGroupResponse result:8
SendMessageToClientRequest clientid:9 message:9
SendMessageToClientResponse result:8
SendMessageToGroupRequest group:9 message:9
SendMessageToGroupResponse result:8 arrive:5
SendMessageToUidRequest uid:9 message:9
SendMessageToUidResponse result:8
UidIsOnlineRequest uid:9
UidIsOnlineResponse result:8
UnBindUidRequest clientid:9
UnBindUidResponse result:8
UnGroupRequest group:9
UnGroupResponse result:8
";

#[test]
fn the_numbers_of_the_classic_api_are_what_they_were() {
    let mut lines = Vec::new();
    for message in descriptors("classic.bin").iter().flat_map(|file| &file.message_type) {
        let mut line = message.name().to_owned();
        for (number, field) in (1..).zip(&message.field) {
            assert_eq!(field.number(), number, "{line}");
            let many = if field.label() == Label::Repeated { "*" } else { "" };
            line = format!("{line} {}:{}{many}", field.name(), field.r#type() as i32);
        }
        lines.push(line);
    }
    lines.sort_unstable();
    assert_eq!(lines.join("\n") + "\n", CLASSIC);
}
