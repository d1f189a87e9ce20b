"""A real Kafka that asks for a password, over TLS, with a certificate of its own."""

import shutil
import subprocess
from pathlib import Path

from streamapp.address import free_port
from tests.kafka import Kafka, Unavailable

PASSWORD = "swordfish"
USER = "shop"


class SecuredKafka(Kafka):
    """A single-node Kafka with one more listener: ``SASL_SSL``, mechanism ``PLAIN``.

    Args:
        folder: Where keys and data live.

    Raises:
        Unavailable: There is no keytool, which comes with the JVM.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.secured = f"127.0.0.1:{free_port()}"
        """Address of that listener."""
        self.certificate = folder / "broker.pem"
        """What clients must trust."""
        self._keys = folder / "broker.p12"
        if shutil.which("keytool") is None:
            raise Unavailable("no keytool on the path")
        store = ["-keystore", str(self._keys), "-storetype", "PKCS12", "-storepass", PASSWORD, "-alias", "broker"]
        names = ["-dname", "CN=localhost", "-ext", "SAN=IP:127.0.0.1,DNS:localhost"]
        for command in (
            ["keytool", "-genkeypair", "-keyalg", "RSA", "-validity", "2", *names, *store],
            ["keytool", "-exportcert", "-rfc", "-file", str(self.certificate), *store],
        ):
            subprocess.run(command, check=True, capture_output=True, timeout=60)

    def properties(self) -> str:
        """Return the usual properties with that listener."""
        module = "org.apache.kafka.common.security.plain.PlainLoginModule"
        text = super().properties()
        text = text.replace("\nadvertised.listeners=", f"\nadvertised.listeners=SASL_SSL://{self.secured},")
        text = text.replace("\nlisteners=", f"\nlisteners=SASL_SSL://{self.secured},")
        return (
            f"{text}\n"
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL\n"
            "sasl.enabled.mechanisms=PLAIN\n"
            "listener.name.sasl_ssl.plain.sasl.jaas.config="
            f'{module} required user_{USER}="{PASSWORD}";\n'
            f"ssl.keystore.type=PKCS12\nssl.keystore.location={self._keys}\nssl.keystore.password={PASSWORD}\n"
        )
