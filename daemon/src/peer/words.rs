//! What two hosts say to each other, as messages of `metis.v1`.

use std::time::Duration;

use metis_proto::v1;

use crate::site::{BootId, Doing, Ended, Intent, Word};

/// As it is sent.
pub fn write(word: &Word) -> v1::PeerWord {
    v1::PeerWord {
        host: word.host.clone(),
        host_role: word.role.clone(),
        boot_id: word.boot_id.to_string(),
        intents: word.intents.iter().map(intent).collect(),
        ended: word.ended.as_ref().map(|ended| v1::PeerEnded { run: ended.run.clone(), outcome: ended.outcome.clone() }),
    }
}

/// One intent as it is sent.
pub fn intent(intent: &Intent) -> v1::PeerIntent {
    let doing = match intent.doing {
        Doing::ShuttingDown => v1::PeerDoing::ShuttingDown,
        Doing::StartingUp => v1::PeerDoing::StartingUp,
    };
    v1::PeerIntent {
        doing: doing.into(),
        run: intent.run.clone(),
        phase: intent.phase.clone(),
        age: prost_types::Duration::try_from(intent.age).ok(),
        boot_id: intent.boot_id.to_string(),
    }
}

/// As it was received. What a newer metis does that this one does not know is taken for a shutdown: it must not be started against.
pub fn read(word: v1::PeerWord) -> Word {
    let intents = word.intents.into_iter().map(|intent| Intent {
        doing: if intent.doing() == v1::PeerDoing::StartingUp { Doing::StartingUp } else { Doing::ShuttingDown },
        run: intent.run,
        boot_id: BootId::new(intent.boot_id),
        phase: intent.phase,
        age: intent.age.and_then(|age| Duration::try_from(age).ok()).unwrap_or_default(),
    });
    Word {
        host: word.host,
        role: word.host_role,
        boot_id: BootId::new(word.boot_id),
        intents: intents.collect(),
        ended: word.ended.map(|ended| Ended { run: ended.run, outcome: ended.outcome }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_arrives_as_it_was_sent() {
        let boot_id = BootId::new("b");
        let intent = |doing| Intent {
            doing,
            run: "startup-4".into(),
            boot_id: boot_id.clone(),
            phase: "nodes".into(),
            age: Duration::from_millis(61_500),
        };
        let word = Word {
            host: "tethys".into(),
            role: "peer".into(),
            boot_id: boot_id.clone(),
            intents: vec![intent(Doing::ShuttingDown), intent(Doing::StartingUp)],
            ended: Some(Ended { run: "startup-3".into(), outcome: "done".into() }),
        };
        assert_eq!(read(write(&word)), word);
    }

    #[test]
    fn what_is_not_known_is_not_started_against() {
        let intent = v1::PeerIntent { doing: 9, boot_id: "b".into(), ..v1::PeerIntent::default() };
        let word = read(v1::PeerWord { boot_id: "b".into(), intents: vec![intent], ..v1::PeerWord::default() });
        assert!(word.does(Doing::ShuttingDown).is_some());
    }
}
