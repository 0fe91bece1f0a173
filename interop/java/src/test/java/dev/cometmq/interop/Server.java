package dev.cometmq.interop;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.extension.ExtensionContext;

/** A name server and one broker, broker-a, on free ports and a temporary directory, for as long as a test needs them. */
final class Server implements ExtensionContext.Store.CloseableResource, AutoCloseable {
    private final Software software = Software.underTest();
    private final Path directory;
    private final int namesrvPort = Ports.namesrv();
    private final int brokerPort = Ports.broker();
    private final Map<String, String> brokerProperties;
    private final List<ServerProcess> processes;

    private Server(Map<String, String> brokerProperties) throws IOException {
        this.brokerProperties = brokerProperties;
        directory = Files.createTempDirectory("cometmq-interop");
        processes = software.standalone(directory, namesrvPort, brokerPort, brokerProperties);
    }

    static Server start() throws Exception {
        return start(Map.of());
    }

    static Server start(Map<String, String> brokerProperties) throws Exception {
        Server server = new Server(brokerProperties);
        try {
            server.restart();
            return server;
        } catch (Exception e) {
            server.close();
            throw e;
        }
    }

    String namesrv() {
        return "127.0.0.1:" + namesrvPort;
    }

    int brokerPort() {
        return brokerPort;
    }

    String brokerAddress() {
        return "127.0.0.1:" + brokerPort;
    }

    /** Starts all processes, the first time or again after {@link #stop} or {@link #kill}. */
    void restart() throws Exception {
        for (ServerProcess process : processes) {
            ServerProcess.start(process);
        }
        software.awaitUsable(namesrv(), brokerProperties);
    }

    /** SIGTERM to all processes, the broker first; fails unless they exit as a clean stop does. */
    void stop() throws InterruptedException {
        for (int i = processes.size() - 1; i >= 0; i--) {
            int exitCode = processes.get(i).terminate();
            if (exitCode != software.exitCodeOfCleanStop()) {
                throw new AssertionError("exit code " + exitCode + " after SIGTERM; output:\n" + processes.get(i).output());
            }
        }
    }

    /** SIGKILL to all processes. */
    void kill() throws InterruptedException {
        for (ServerProcess process : processes) {
            process.kill();
        }
    }

    /** Process ids, comma-separated. */
    String pids() {
        return String.join(",", processes.stream().map(process -> Long.toString(process.pid())).toList());
    }

    @Override
    public void close() throws InterruptedException, IOException {
        for (int i = processes.size() - 1; i >= 0; i--) {
            processes.get(i).close();
        }
        delete(directory);
    }

    static void delete(Path directory) throws IOException {
        try (Stream<Path> files = Files.walk(directory)) {
            for (Path file : files.sorted(Comparator.reverseOrder()).toList()) {
                Files.deleteIfExists(file);
            }
        }
    }
}
