//! Wake-on-LAN: a magic packet, six times FF and sixteen times the MAC address (AMD, "Magic Packet Technology"), by UDP to a broadcast
//! address. Nobody answers it, and it crosses no router.

use tokio::net::UdpSocket;

use super::port::{HostError, Waker};
use crate::site::Host;

/// Sends packets over the network.
pub struct MagicPacket;

#[tonic::async_trait]
impl Waker for MagicPacket {
    async fn wake(&self, host: &Host) -> Result<(), HostError> {
        let name = &host.name;
        let missing = || HostError::Refused(format!("{name}: it has no `host.mac` that a magic packet could wake"));
        let (mac, to) = host.mac.as_deref().and_then(bytes).zip(host.wake).ok_or_else(missing)?;
        let here = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let sent = async {
            let socket = UdpSocket::bind(here).await?;
            socket.set_broadcast(true)?;
            socket.send_to(&packet(mac), to).await
        };
        // No route to the broadcast address: this host's network is not up yet.
        sent.await.map(drop).map_err(|error| HostError::Failed(format!("{name}: a magic packet to {to} could not be sent: {error}")))
    }
}

fn packet(mac: [u8; 6]) -> [u8; 102] {
    let mut packet = [0xff; 102];
    for copy in packet[6..].chunks_exact_mut(6) {
        copy.copy_from_slice(&mac);
    }
    packet
}

/// Of `aa:bb:cc:dd:ee:ff`.
fn bytes(mac: &str) -> Option<[u8; 6]> {
    let parts: Option<Vec<u8>> = mac.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    parts?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::*;
    use crate::host::testing::ssh_host;

    #[test]
    fn a_packet_is_sixteen_times_the_address_after_six_times_ff() {
        let mac = bytes("00:1b:21:3a:4f:5e").unwrap();
        let packet = packet(mac);
        assert_eq!((&packet[..6], packet.len()), ([0xff; 6].as_slice(), 102));
        assert!(packet[6..].chunks(6).all(|copy| copy == [0x00, 0x1b, 0x21, 0x3a, 0x4f, 0x5e]));
        assert_eq!((bytes("00:1b:21"), bytes("00:1b:21:3a:4f:xx")), (None, None));
    }

    #[tokio::test]
    async fn it_is_broadcast() {
        // 127.255.255.255 is the broadcast address of loopback's network: without SO_BROADCAST the kernel refuses it.
        let listener = UdpSocket::bind("0.0.0.0:0").await.unwrap();
        let to = SocketAddr::new("127.255.255.255".parse().unwrap(), listener.local_addr().unwrap().port());
        let host = Host { mac: Some("00:1b:21:3a:4f:5e".to_owned()), wake: Some(to), ..ssh_host("127.0.0.1", 22) };
        MagicPacket.wake(&host).await.unwrap();
        let mut heard = [0; 200];
        let (count, _) = tokio::time::timeout(Duration::from_secs(10), listener.recv_from(&mut heard)).await.unwrap().unwrap();
        assert_eq!((count, &heard[..12]), (102, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0x1b, 0x21, 0x3a, 0x4f, 0x5e].as_slice()));
        let without = MagicPacket.wake(&Host { mac: None, ..host }).await;
        assert!(matches!(without, Err(HostError::Refused(_))), "{without:?}");
    }
}
