package dev.cometmq.interop;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;

/** One process of the server under test: started, awaited, ended and started again on the same directory and ports. */
final class ServerProcess implements AutoCloseable {
    private static final long START_LIMIT_MS = 60_000;
    private static final long STOP_LIMIT_S = 30;

    private final String name;
    private final Path directory;
    private final List<String> command;
    private final List<Integer> ports;
    private final List<String> bootLines;
    private Process process;
    private int outputBefore;

    ServerProcess(String name, Path directory, List<String> command, List<Integer> ports, List<String> bootLines) {
        this.name = name;
        this.directory = directory;
        this.command = command;
        this.ports = ports;
        this.bootLines = bootLines;
    }

    /** Launches the processes side by side and returns once all are ready. */
    static void start(ServerProcess... processes) throws IOException, InterruptedException {
        for (ServerProcess process : processes) {
            process.launch();
        }
        for (ServerProcess process : processes) {
            process.awaitReady();
        }
    }

    private void launch() throws IOException {
        outputBefore = Files.exists(outputFile()) ? output().length() : 0;
        ProcessBuilder builder = new ProcessBuilder(command).directory(directory.toFile())
            .redirectErrorStream(true).redirectOutput(ProcessBuilder.Redirect.appendTo(outputFile().toFile()));
        builder.environment().put("HOME", directory.toString());
        builder.environment().remove("ROCKETMQ_HOME");
        builder.environment().remove("NAMESRV_ADDR");
        process = builder.start();
        Process started = process;
        Runtime.getRuntime().addShutdownHook(new Thread(started::destroyForcibly));
    }

    /** Ready is who accepts on all ports and has announced its boot. */
    private void awaitReady() throws InterruptedException {
        long deadline = System.currentTimeMillis() + START_LIMIT_MS;
        while (!ready()) {
            if (!process.isAlive() || System.currentTimeMillis() > deadline) {
                boolean alive = process.isAlive();
                kill();
                throw new IllegalStateException(name + (alive ? " is not ready after 60 s" : " ended while starting") + "; waited for "
                    + bootLines + " and ports " + ports + "; command " + command + "; output:\n" + output());
            }
            Thread.sleep(50);
        }
    }

    /** SIGTERM; returns the exit code. */
    int terminate() throws InterruptedException {
        process.destroy();
        if (!process.waitFor(STOP_LIMIT_S, TimeUnit.SECONDS)) {
            kill();
            throw new IllegalStateException(name + " still runs " + STOP_LIMIT_S + " s after SIGTERM; output:\n" + output());
        }
        return process.exitValue();
    }

    /** SIGKILL. */
    void kill() throws InterruptedException {
        process.destroyForcibly().waitFor();
    }

    long pid() {
        return process.pid();
    }

    /** Standard output and error of all starts so far. */
    String output() {
        try {
            return Files.readString(outputFile());
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    @Override
    public void close() throws InterruptedException {
        if (process != null && process.isAlive()) {
            process.destroy();
            if (!process.waitFor(10, TimeUnit.SECONDS)) {
                kill();
            }
        }
    }

    static Map<String, String> brokerProperties(Path directory, String name, int port) {
        return Map.of("brokerClusterName", "DefaultCluster", "brokerName", name, "brokerId", "0",
            "listenPort", Integer.toString(port), "brokerIP1", "127.0.0.1",
            "storePathRootDir", directory.resolve("store").toString(),
            "storePathCommitLog", directory.resolve("store/commitlog").toString());
    }

    static String brokerBootLine(String name, int port) {
        return "The broker[" + name + ", 127.0.0.1:" + port + "] boot success";
    }

    static Path writeProperties(Path directory, String file, Map<String, String> properties) throws IOException {
        String text = new TreeMap<>(properties).entrySet().stream()
            .map(property -> property.getKey() + "=" + property.getValue() + "\n").collect(Collectors.joining());
        return Files.writeString(Files.createDirectories(directory).resolve(file), text);
    }

    private boolean ready() {
        String sinceStart = output().substring(outputBefore);
        return bootLines.stream().allMatch(sinceStart::contains) && ports.stream().allMatch(ServerProcess::accepts);
    }

    private static boolean accepts(int port) {
        try (Socket socket = new Socket()) {
            socket.connect(new InetSocketAddress("127.0.0.1", port), 500);
            return true;
        } catch (IOException e) {
            return false;
        }
    }

    private Path outputFile() {
        return directory.resolve(name + ".out");
    }
}
