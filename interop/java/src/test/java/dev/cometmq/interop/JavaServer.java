package dev.cometmq.interop;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** A release of the Java RocketMQ name server and broker that java-server/pom.xml fetches: the oracle these tests are proved with. */
final class JavaServer implements Software {
    /** The release that is the oracle of all tests. */
    static final String ORACLE = "5.3.3";

    private static final int TERMINATED_BY_SIGNAL = 143;
    private static final Duration REGISTRATION_LIMIT = Duration.ofSeconds(60);

    private final Path lib;

    JavaServer(String version) {
        lib = Path.of(System.getProperty("interop.java.servers", "java-server/target"), version, "lib").toAbsolutePath();
        if (!Files.isDirectory(lib)) {
            throw new IllegalStateException("the Java server is missing: no folder " + lib
                + ". Fetch it with: mvn -f java-server/pom.xml package -Drocketmq.server.version=" + version);
        }
    }

    @Override
    public List<ServerProcess> standalone(Path directory, int namesrvPort, int brokerPort, Map<String, String> brokerProperties)
        throws IOException {
        Path namesrvDirectory = Files.createDirectories(directory.resolve("namesrv"));
        Path brokerDirectory = Files.createDirectories(directory.resolve("broker"));
        return List.of(
            namesrv(namesrvDirectory, namesrvPort, Call.SUBCOMMAND),
            broker(brokerDirectory, "broker-a", brokerPort, "127.0.0.1:" + namesrvPort, brokerProperties));
    }

    @Override
    public ServerProcess namesrv(Path directory, int port, Call call) throws IOException {
        Path configuration = ServerProcess.writeProperties(directory, "namesrv.conf", Map.of("listenPort", Integer.toString(port)));
        List<String> command = java(directory, "256m");
        command.addAll(List.of("org.apache.rocketmq.namesrv.NamesrvStartup", "-c", configuration.toString()));
        return new ServerProcess("namesrv", directory, command, List.of(port), List.of("The Name Server boot success"));
    }

    @Override
    public ServerProcess broker(Path directory, String name, int port, String namesrvs, Call call) throws IOException {
        return broker(directory, name, port, namesrvs, Map.of());
    }

    /**
     * The Java broker announces its boot before the name server knows its topics, TBW102 among them; if its first
     * registration fails, that takes until the next.
     */
    @Override
    public void awaitUsable(String namesrv, Map<String, String> brokerProperties) throws Exception {
        if (!"false".equals(brokerProperties.get("autoCreateTopicEnable"))) {
            try (TopicReader reader = new TopicReader(namesrv)) {
                Await.until(REGISTRATION_LIMIT, () -> {
                    try {
                        return reader.queues("TBW102").isEmpty() ? "no queues" : null;
                    } catch (Exception e) {
                        return e.toString();
                    }
                });
            }
        }
    }

    @Override
    public int exitCodeOfCleanStop() {
        return TERMINATED_BY_SIGNAL;
    }

    private ServerProcess broker(Path directory, String name, int port, String namesrvs, Map<String, String> more)
        throws IOException {
        Map<String, String> properties = new HashMap<>(ServerProcess.brokerProperties(directory, name, port));
        properties.put("registerNameServerPeriod", "10000");
        // Instead of 200 ms: on a busy machine the broker would refuse sends that waited longer, and of a oneway nobody hears.
        properties.put("waitTimeMillsInSendQueue", "10000");
        properties.putAll(more);
        return broker(ServerProcess.writeProperties(directory, "broker.conf", properties), name, port, namesrvs);
    }

    @Override
    public ServerProcess broker(Path configuration, String name, int port, String namesrvs) throws IOException {
        Path directory = configuration.getParent();
        List<String> command = java(directory, "1g");
        command.addAll(List.of("org.apache.rocketmq.broker.BrokerStartup", "-n", namesrvs, "-c", configuration.toString()));
        return new ServerProcess(name, directory, command, List.of(port, port - 2),
            List.of(ServerProcess.brokerBootLine(name, port)));
    }

    private List<String> java(Path directory, String heap) throws IOException {
        Path home = Files.createDirectories(directory.resolve("home/conf")).getParent();
        // Release 4 ends without these two; release 5 does not look at them.
        for (String role : List.of("broker", "namesrv")) {
            Files.writeString(home.resolve("conf/logback_" + role + ".xml"), "<configuration/>\n");
        }
        return new ArrayList<>(List.of(Path.of(System.getProperty("java.home"), "bin", "java").toString(),
            "-Xms" + heap, "-Xmx" + heap, "-XX:TieredStopAtLevel=1",
            "--add-opens", "java.base/java.nio=ALL-UNNAMED", "--add-opens", "java.base/sun.nio.ch=ALL-UNNAMED",
            "--add-exports", "java.base/jdk.internal.ref=ALL-UNNAMED",
            "-Drocketmq.home.dir=" + home, "-Duser.home=" + home, "-cp", lib + "/*"));
    }
}
