package dev.cometmq.interop;

import java.io.IOException;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;

/** The server software under test: how its roles are started. */
interface Software {
    /** How a role of the binary is called: as {@code cometmq broker}, or through a link named {@code mqbroker}. */
    enum Call { SUBCOMMAND, LINK }

    /** Chosen by the system property {@code interop.server}: {@code binary} (default) or {@code java}. */
    static Software underTest() {
        String choice = System.getProperty("interop.server", "binary");
        return switch (choice) {
            case "binary" -> new CometBinary(System.getProperty("cometmq.binary", ""));
            case "java" -> new JavaServer(JavaServer.ORACLE);
            default -> throw new IllegalArgumentException("interop.server must be binary or java, not " + choice);
        };
    }

    /** A name server with one broker, in as many processes as the software needs, in starting order. */
    List<ServerProcess> standalone(Path directory, int namesrvPort, int brokerPort, Map<String, String> brokerProperties)
        throws IOException;

    ServerProcess namesrv(Path directory, int port, Call call) throws IOException;

    ServerProcess broker(Path directory, String name, int port, String namesrvs, Call call) throws IOException;

    /** A broker on a configuration file as it is, which names its store: what another software left can be opened. */
    ServerProcess broker(Path configuration, String name, int port, String namesrvs) throws IOException;

    /** Waits, after the processes are ready, for what this software does not wait for before it announces its boot. */
    default void awaitUsable(String namesrv, Map<String, String> brokerProperties) throws Exception {
    }

    /** What a process exits with after SIGTERM. */
    int exitCodeOfCleanStop();
}
