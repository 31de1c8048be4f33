Feature: Reload
  Another engine takes over when it is ready; what does not work is taken back; what did not change is not touched.

  Scenario: A reload to a good model
    Given a pool "chat" of the model "one"
    When the pool "chat" is ready
    And a reload of "chat" to the model "held" begins
    Then 2 engines run, one of them the one from before
    When "chat" is asked
    Then the answer is 200
    And it is of the engine from before
    When 1 engine is let go
    Then the reload ends with 200
    And the new engine of "chat" was ready before the old one stopped
    When "chat" is asked
    Then the answer is 200
    And it is of another engine than before

  Scenario Outline: A reload to a model that <what>
    Given a pool "chat" of the model "one"
    When the pool "chat" is ready
    And "chat" is reloaded to the model "<model>"
    Then the answer is 409 CONFLICT
    And the answer says "<why>"
    And the engine of "chat" is the one from before, and no other runs
    When "chat" is asked
    Then the answer is 200
    And it is of the engine from before

    Examples:
      | model | what                 | why    |
      | bad   | cannot be loaded     | model  |
      | oom   | no memory holds      | memory |
      | mute  | answers with nothing | 500    |

  Scenario: One pool of the configuration changes
    Given a pool "chat" of the model "one"
    And a pool "embed" of the model "one"
    When the pool "chat" is ready
    And the pool "embed" is ready
    And the configuration gives "chat" 3 slots
    And corral config reload is run
    Then it succeeds and names "chat" alone
    And "chat" has 3 of 3 slots free
    And the engine of "chat" is another one and ready
    And the engine of "embed" is the one from before

  Scenario: A broken configuration
    Given a pool "chat" of the model "one"
    And a pool "embed" of the model "one"
    When the pool "chat" is ready
    And the pool "embed" is ready
    And the configuration is broken in line 2
    And corral config reload is run
    Then it fails and names line 2
    And the engine of "chat" is the one from before
    And the engine of "embed" is the one from before
    When "chat" is asked
    Then the answer is 200

  Scenario: A pool that is disabled stays so over a restart
    Given a pool "chat" of the model "one"
    When the pool "chat" is ready
    And "chat" is disabled
    Then no engine of "chat" runs
    When Corral is restarted
    And "chat" is asked
    Then the answer is 503 POOL_UNAVAILABLE
    And the answer says "disabled"
    And no engine of "chat" runs
    When "chat" is enabled
    And Corral is restarted
    And "chat" is asked
    Then the answer is 200
