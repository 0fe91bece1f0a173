package dev.cometmq.interop;

import java.util.HashMap;
import java.util.Map;
import java.util.Set;

/** A command word followed by {@code --name value} pairs. */
final class Options {
    final String command;
    private final Map<String, String> values = new HashMap<>();

    Options(String[] arguments, Set<String> known) {
        if (arguments.length % 2 == 0) {
            throw new IllegalArgumentException("expected a command and --name value pairs");
        }
        command = arguments[0];
        for (int i = 1; i < arguments.length; i += 2) {
            String name = arguments[i];
            if (!name.startsWith("--") || !known.contains(name.substring(2))) {
                throw new IllegalArgumentException("unknown option " + name);
            }
            values.put(name.substring(2), arguments[i + 1]);
        }
    }

    boolean has(String name) {
        return values.containsKey(name);
    }

    String text(String name) {
        if (!has(name)) {
            throw new IllegalArgumentException("missing option --" + name);
        }
        return values.get(name);
    }

    long number(String name) {
        return Long.parseLong(text(name));
    }

    long number(String name, long otherwise) {
        return has(name) ? number(name) : otherwise;
    }
}
