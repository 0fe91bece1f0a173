package dev.cometmq.interop;

import com.alibaba.fastjson.JSON;
import com.alibaba.fastjson.JSONException;
import com.alibaba.fastjson.JSONObject;
import com.alibaba.fastjson.parser.Feature;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;

/** The JSON files below config/, read with the library that Java brokers write them with. */
final class ConfigFiles {
    private ConfigFiles() {
    }

    /** One table of a file; a file that a broker is writing just now may be empty or cut. */
    static Map<String, Object> table(Path file, String name) throws IOException {
        JSONObject whole;
        try {
            whole = JSON.parseObject(Files.readString(file), Feature.OrderedField);
        } catch (JSONException e) {
            throw new IOException(file + " is no JSON", e);
        }
        Map<String, Object> table = whole == null ? null : whole.getJSONObject(name);
        if (table == null) {
            throw new IOException(file + " has no " + name);
        }
        return table;
    }

    /** The entry of a map whose keys may be numbers or texts. */
    static String at(Map<?, ?> map, String key) {
        return map.entrySet().stream().filter(entry -> entry.getKey().toString().equals(key))
            .map(entry -> entry.getValue().toString()).findFirst().orElse(null);
    }

    /** Those fields of a topic or group that release 4 has as well. */
    static String common(Object settings) {
        if (!(settings instanceof Map<?, ?> fields)) {
            return "none";
        }
        TreeMap<String, Object> common = new TreeMap<>();
        fields.forEach((name, value) -> common.put(name.toString(), value));
        common.keySet().removeAll(Set.of("attributes", "consumeMessageOrderly", "consumeTimeoutMinute", "groupRetryPolicy",
            "groupSysFlag"));
        return common.toString();
    }
}
