package dev.cometmq.interop;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;

/** CPU time and memory of the server's processes, read from {@code /proc}, over one measured phase. */
final class ServerUsage {
    /** What Linux reports in /proc/PID/stat on every common architecture. */
    private static final double TICKS_PER_SECOND = 100;

    private final List<Long> pids;
    private double cpuAtStart;

    ServerUsage(String commaSeparatedPids) {
        pids = Arrays.stream(commaSeparatedPids.split(",")).map(String::trim).map(Long::valueOf).toList();
    }

    void start() {
        cpuAtStart = pids.stream().mapToDouble(ServerUsage::cpuSeconds).sum();
    }

    /** The fields for the result line, each preceded by a comma; memory is summed over the processes. */
    String report(long messages) {
        double cpu = pids.stream().mapToDouble(ServerUsage::cpuSeconds).sum() - cpuAtStart;
        return String.format(Locale.ROOT,
            ",\"server_cpu_seconds\":%.2f,\"messages_per_server_cpu_second\":%.0f,\"server_rss_kib\":%d,\"server_hwm_kib\":%d",
            cpu, cpu == 0 ? 0 : messages / cpu,
            pids.stream().mapToLong(pid -> statusKib(pid, "VmRSS:")).sum(),
            pids.stream().mapToLong(pid -> statusKib(pid, "VmHWM:")).sum());
    }

    private static double cpuSeconds(long pid) {
        String stat = read(pid, "stat");
        // The command name, in parentheses, may contain blanks; utime and stime are fields 14 and 15 of the line.
        String[] afterName = stat.substring(stat.lastIndexOf(')') + 2).split(" ");
        return (Long.parseLong(afterName[11]) + Long.parseLong(afterName[12])) / TICKS_PER_SECOND;
    }

    private static long statusKib(long pid, String field) {
        return read(pid, "status").lines().filter(line -> line.startsWith(field))
            .mapToLong(line -> Long.parseLong(line.replaceAll("\\D", ""))).findFirst().orElse(0);
    }

    private static String read(long pid, String file) {
        try {
            return Files.readString(Path.of("/proc", Long.toString(pid), file));
        } catch (IOException e) {
            throw new IllegalArgumentException("cannot read the usage of process " + pid, e);
        }
    }
}
