Feature: Supervision
  Engines that end are started again; what cannot be mended by a restart is not tried for ever.

  Scenario: An engine killed from outside is started again at once
    Given a pool "chat" with 2 slots
    When the pool "chat" is ready
    And the engine of "chat" is killed
    Then "chat" has another engine and is ready
    And no backoff of "chat" was waited for
    When "chat" is asked
    Then the answer is 200

  Scenario: A killed keeper takes its engine with it, and both are new
    Given a pool "chat" with 2 slots
    When the pool "chat" is ready
    And the keeper of "chat" is killed
    Then "chat" has another engine and is ready

  Scenario: A request without a byte survives its engine
    Given a pool "chat" with 2 slots
    When the pool "chat" is ready
    And "chat" is asked for an answer that takes 2000 ms to begin
    And the engine of "chat" is killed
    Then that answer is 200

  Scenario: A stream is told that its engine died
    Given a pool "chat" with 2 slots
    When the pool "chat" is ready
    And 1 stream of "chat" runs
    And the engine of "chat" is killed
    Then every stream ends with the error WORKER_RESET and without [DONE]

  Scenario: A model that cannot be loaded is not tried again and again
    Given a pool "broken" whose engine cannot start
    When "broken" is asked
    Then the answer is 503 POOL_UNAVAILABLE
    And "broken" has a last error that mentions "bad_model"
    And "broken" was started once
