package dev.cometmq.interop;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Compares a ledger with what the server holds: every acknowledged message in its place, intact, without gaps. */
final class LedgerCheck {
    private static final int PROBLEMS_SHOWN = 50;

    /** Acknowledged ids not seen yet, by queue ("broker queue") and offset. */
    private final Map<String, Map<Long, String>> missing = new HashMap<>();
    private final List<String> problems = new ArrayList<>();
    private long acknowledged;
    private long read;
    private long problemCount;

    LedgerCheck(Path ledger) throws IOException {
        String text = Files.readString(ledger);
        // A writer that was killed may have left half a line; only whole lines count as acknowledged.
        text.substring(0, text.lastIndexOf('\n') + 1).lines().forEach(this::expect);
    }

    void run(String namesrv, String topic) throws Exception {
        try (TopicReader reader = new TopicReader(namesrv)) {
            for (MessageQueue queue : reader.queues(topic)) {
                checkQueue(reader, queue);
            }
        }
        missing.forEach((queue, ids) -> ids.forEach((offset, id) -> problem("lost: " + id + " at " + queue + " " + offset)));
    }

    boolean passed() {
        return problemCount == 0;
    }

    /** The problems, one a line, then a line of JSON with the totals. */
    String report() {
        StringBuilder text = new StringBuilder();
        problems.forEach(problem -> text.append(problem).append('\n'));
        return text.append("{\"acknowledged\":").append(acknowledged).append(",\"read\":").append(read)
            .append(",\"problems\":").append(problemCount).append('}').toString();
    }

    private void expect(String line) {
        String[] fields = line.split(" ");
        String earlier = missing.computeIfAbsent(fields[1] + " " + fields[2], queue -> new HashMap<>())
            .put(Long.parseLong(fields[3]), fields[0]);
        if (earlier != null) {
            problem("acknowledged twice at one offset: " + earlier + " and " + line);
        }
        acknowledged++;
    }

    private void checkQueue(TopicReader reader, MessageQueue queue) throws Exception {
        String name = queue.getBrokerName() + " " + queue.getQueueId();
        Map<Long, String> expected = missing.getOrDefault(name, Map.of());
        long[] next = {-1};
        reader.read(queue, message -> {
            read++;
            long offset = message.getQueueOffset();
            if (next[0] >= 0 && offset != next[0]) {
                problem("gap: " + name + " goes from " + (next[0] - 1) + " to " + offset);
            }
            next[0] = offset + 1;
            checkMessage(name, message, expected);
        });
    }

    private void checkMessage(String queue, MessageExt message, Map<Long, String> expected) {
        if (!CheckedBody.intact(message.getBody())) {
            problem("corrupt: " + message.getMsgId() + " at " + queue + " " + message.getQueueOffset());
        }
        String id = expected.get(message.getQueueOffset());
        if (id != null && id.equals(message.getMsgId())) {
            expected.remove(message.getQueueOffset());
        } else if (id != null) {
            problem("replaced: " + id + " by " + message.getMsgId() + " at " + queue + " " + message.getQueueOffset());
        }
    }

    private void problem(String text) {
        problemCount++;
        if (problems.size() < PROBLEMS_SHOWN) {
            problems.add(text);
        }
    }
}
