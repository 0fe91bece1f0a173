package dev.cometmq.interop;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** The CometMQ binary, called the ways a user calls it. */
final class CometBinary implements Software {
    private final Path binary;

    CometBinary(String binary) {
        if (binary.isEmpty() || !Files.isExecutable(Path.of(binary))) {
            throw new IllegalStateException("the server binary is missing: '" + binary + "' is not an executable file. "
                + "Pass -Dcometmq.binary=/absolute/path/to/cometmq, or -Dinterop.server=java to test the Java server.");
        }
        this.binary = Path.of(binary).toAbsolutePath();
    }

    @Override
    public List<ServerProcess> standalone(Path directory, int namesrvPort, int brokerPort, Map<String, String> brokerProperties)
        throws IOException {
        List<String> command = new ArrayList<>(List.of(binary.toString(), "serve", "--data", directory.resolve("data").toString(),
            "--namesrv-port", Integer.toString(namesrvPort), "--broker-port", Integer.toString(brokerPort)));
        if (!brokerProperties.isEmpty()) {
            command.addAll(List.of("-c", ServerProcess.writeProperties(directory, "broker.conf", brokerProperties).toString()));
        }
        return List.of(new ServerProcess("serve", directory, command,
            List.of(namesrvPort, brokerPort, brokerPort - 2),
            List.of("The Name Server boot success", ServerProcess.brokerBootLine("broker-a", brokerPort))));
    }

    @Override
    public ServerProcess namesrv(Path directory, int port, Call call) throws IOException {
        Path configuration = ServerProcess.writeProperties(directory, "namesrv.conf", Map.of("listenPort", Integer.toString(port)));
        List<String> command = role(directory, "namesrv", call);
        command.addAll(List.of("-c", configuration.toString()));
        return new ServerProcess("namesrv", directory, command, List.of(port), List.of("The Name Server boot success"));
    }

    @Override
    public ServerProcess broker(Path directory, String name, int port, String namesrvs, Call call) throws IOException {
        Path configuration = ServerProcess.writeProperties(directory, "broker.conf",
            ServerProcess.brokerProperties(directory, name, port));
        return broker(role(directory, "broker", call), configuration, name, port, namesrvs);
    }

    @Override
    public ServerProcess broker(Path configuration, String name, int port, String namesrvs) throws IOException {
        return broker(role(configuration.getParent(), "broker", Call.SUBCOMMAND), configuration, name, port, namesrvs);
    }

    private static ServerProcess broker(List<String> command, Path configuration, String name, int port, String namesrvs) {
        command.addAll(List.of("-n", namesrvs, "-c", configuration.toString()));
        return new ServerProcess(name, configuration.getParent(), command, List.of(port, port - 2),
            List.of(ServerProcess.brokerBootLine(name, port)));
    }

    @Override
    public int exitCodeOfCleanStop() {
        return 0;
    }

    private List<String> role(Path directory, String role, Call call) throws IOException {
        if (call == Call.SUBCOMMAND) {
            return new ArrayList<>(List.of(binary.toString(), role));
        }
        Path link = Files.createSymbolicLink(directory.resolve("mq" + role), binary);
        return new ArrayList<>(List.of(link.toString()));
    }
}
